"""Rows with other people's fields: what a transform adds to them, and what it takes away.

The transforms here take any schema'd row that has `key` and `data`, work on those, and carry every other field
along. A row that has just the fields of one of our records stays that record; any other becomes a `beam.Row`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Optional, get_type_hints

import apache_beam as beam
from apache_beam.typehints import typehints
from apache_beam.typehints.row_type import RowTypeConstraint

Fields = dict[str, Any]  # name to type hint, in the order of the schema


def fields_of(pcoll: beam.PCollection[Any], transform: str, needed: Mapping[str, type]) -> Fields:
    """The fields of the rows of a PCollection.

    Raises:
      TypeError: its elements have no schema, or lack a needed field, or have it with another type.
    """
    row_type = pcoll.element_type
    if not isinstance(row_type, RowTypeConstraint):
        row_type = RowTypeConstraint.from_user_type(row_type)
    if row_type is None and dataclasses.is_dataclass(pcoll.element_type):  # a frozen one, which Beam passes over
        row_type = RowTypeConstraint.from_fields(list(get_type_hints(pcoll.element_type).items()))
    wanted = ", ".join(f"{name}: {kind.__name__}" for name, kind in needed.items())
    if row_type is None:
        raise TypeError(
            f"{transform} takes rows with the fields {wanted}, but the type of its input's elements is "
            f"{pcoll.element_type}; state it, e.g. with .with_output_types(EncodedImage)"
        )
    fields = dict(row_type._fields)
    for name, kind in needed.items():
        if name not in fields:
            raise TypeError(f"{transform} takes rows with the fields {wanted}, but its input has {', '.join(fields)}")
        found = getattr(fields[name], "user_type", fields[name])
        if isinstance(found, typehints.AnyTypeConstraint):
            fields[name] = kind  # beam.Select and friends lose the type; the row says at run time
        elif found is not kind:
            raise TypeError(f"{transform} takes rows whose {name} is {kind.__name__}, but its input's is {found}")
    return fields


@dataclasses.dataclass(frozen=True)
class Shape:
    """Makes output rows from input rows.

    Args:
      carried: the input's fields that the output has too.
      record: the NamedTuple to build where the output has exactly its fields; None for a beam.Row.
    """

    carried: tuple[str, ...]
    record: Optional[type[Any]]

    def make(self, row: Any, **added: Any) -> Any:
        values = {name: getattr(row, name) for name in self.carried}
        build: Callable[..., Any] = self.record or beam.Row
        return build(**{**values, **added})


def shape(
    fields: Fields, transform: str, added: Fields, record: type[Any], dropped: tuple[str, ...] = ()
) -> tuple[Shape, Any]:
    """How to make the rows of an output, and their type.

    Args:
      fields: of the input.
      transform: its name, for messages.
      added: the fields that the transform sets.
      record: our record for the case that the output has no other fields.
      dropped: fields of the input that the output does not have.

    Raises:
      TypeError: the input has a field that the transform would overwrite.
    """
    if clash := sorted((set(fields) - set(dropped)) & set(added)):
        raise TypeError(f"{transform} sets the field {clash[0]}, which its input has already; rename or drop that")
    carried = tuple(name for name in fields if name not in dropped)
    if set(carried) | set(added) == set(record._fields):
        return Shape(carried, record), record
    kinds = [(name, fields[name]) for name in carried] + list(added.items())
    return Shape(carried, None), RowTypeConstraint.from_fields(kinds)
