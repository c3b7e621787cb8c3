"""The transforms as Beam YAML has them: with outputs that have names, e.g. `CompressJPEG.images`.

`providers.yaml`, beside the package, names what is here.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

import apache_beam as beam

from beam_adacompress import transforms


class _Named(beam.PTransform):
    """A transform whose several outputs are a mapping, for that is what Beam YAML takes names from."""

    def __init__(self, transform: beam.PTransform) -> None:
        super().__init__(type(transform).__name__)
        self._transform = transform

    def expand(self, inputs):  # type: ignore[no-untyped-def]  # Beam would take annotations for types of elements
        outputs = inputs | self._transform
        return outputs._asdict() if hasattr(outputs, "_asdict") else outputs


def _factory(transform: Any, takes_input: bool = True) -> Callable[..., beam.PTransform]:
    """A function with the arguments and the description of a transform that makes it with named outputs."""
    hints = get_type_hints(transform)

    @functools.wraps(transform, assigned=("__doc__", "__name__"), updated=())
    def make(**config: Any) -> beam.PTransform:
        return _Named(transform(**config))

    parameters = [
        parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in inspect.signature(transform).parameters.items()
    ]
    del make.__wrapped__
    make.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    make._yaml_requires_inputs = takes_input  # type: ignore[attr-defined]
    return make


TRANSFORMS: dict[str, Callable[..., beam.PTransform]] = {
    "ReadImages": _factory(transforms.ReadImages, takes_input=False),
    **{
        transform.__name__: _factory(transform)
        for transform in (
            transforms.WriteImages,
            transforms.ChooseQuality,
            transforms.CompressJPEG,
            transforms.DecodeDCT,
            transforms.ScoreWithBackend,
            transforms.EstimateDrift,
            transforms.RetrainAgent,
        )
    },
}


def __getattr__(name: str) -> Callable[..., beam.PTransform]:
    if name not in TRANSFORMS:
        raise AttributeError(f"module {__name__} has no transform {name}; it has {', '.join(TRANSFORMS)}")
    return TRANSFORMS[name]
