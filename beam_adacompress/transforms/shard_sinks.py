"""Shards again: read a second time and written with the results of a run, see `shards`."""

import dataclasses
import functools
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Optional

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from beam_adacompress import manifest, summary
from beam_adacompress.errors import AdaCompressError, ImageError
from beam_adacompress.formats import ShardFormat
from beam_adacompress.manifest import ManifestRow
from beam_adacompress.records import COMPRESSED
from beam_adacompress.summary import RunStats
from beam_adacompress.transforms import files, packs
from beam_adacompress.transforms.merging import Merge
from beam_adacompress.transforms.runs import RunFolder, read_rows
from beam_adacompress.transforms.shards import Shard, ShardedFolder
from beam_adacompress.transforms.sinks import failed_row, write_failed


@dataclasses.dataclass
class RewriteShards(beam.PTransform):
    """Writes each shard with the results in the places of their originals, and its part of the manifest.

    Takes `{"shards": Shard rows, "fragments": Fragment rows}`.

    Args:
      folder: of the run.
      format: of the shards.
      seed: of the images that the report shows.
    """

    folder: ShardedFolder
    format: ShardFormat
    seed: int

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, parts: Any) -> beam.PCollection[RunStats]:
        rewrite = functools.partial(_rewrite_group, self.folder, self.format, self.seed)
        return (
            {
                "shards": parts["shards"]
                | "ByNumber" >> beam.WithKeys(_number_of).with_output_types(tuple[int, Shard]),
                "fragments": parts["fragments"] | "ByShard" >> beam.Map(tuple).with_output_types(tuple[int, str]),
            }
            | "Gather" >> beam.CoGroupByKey()
            | "Rewrite" >> beam.MapTuple(rewrite).with_output_types(RunStats)
            | "Count" >> beam.CombineGlobally(Merge(functools.partial(RunStats, self.seed))).without_defaults()
        )


def _number_of(shard: Shard) -> int:
    return shard.number


def _rewrite_group(
    folder: ShardedFolder, form: ShardFormat, seed: int, number: int, group: Mapping[str, Iterable[Any]]
) -> RunStats:
    part = folder.part(number)
    paths = sorted(set(group["fragments"]))
    rows = {path: manifest.to_table(read_rows(path)) for path in paths}
    table = manifest.merge(rows.values())
    if part not in rows:  # else an earlier attempt wrote it, and the shard before it
        for shard in group["shards"]:  # one, or none where its name is no key
            table = rewrite(folder, form, shard, table, packs.Packs(_places(rows)))
        folder.write(part, manifest.to_parquet(table))
    return summary.collect(manifest.rows_of(table), seed, number)


def _places(rows: Mapping[str, Any]) -> dict[str, str]:
    """The packs of the compressed images in files with rows, by key; of several for one key the last one stands."""
    return {
        key: packs.beside(path)
        for path, table in rows.items()
        for key in table.filter(pc.equal(table["status"], COMPRESSED))["key"].to_pylist()
    }


def rewrite(folder: ShardedFolder, form: ShardFormat, shard: Shard, table: pa.Table, results: packs.Packs) -> pa.Table:
    """Writes a shard into a run's folder.

    Args:
      folder: of the run.
      form: of the shard.
      shard: which one.
      table: its rows of the manifest, see manifest.to_table.
      results: for those rows.

    Returns:
      The rows; one of a failed shard where it cannot be read to its end, and then nothing is written.

    Raises:
      AdaCompressError: the output cannot be written, or the rows are not of this shard.
    """
    keys = table["key"].to_pylist()
    if shard.key in keys:
        return table.filter(pc.equal(table["key"], shard.key))
    if strangers := [key for key in keys if not key.startswith(f"{shard.key}/")]:
        raise AdaCompressError(f"{strangers[0]} is not in {shard.path}: the input has changed meanwhile; run again")
    try:
        with files.opened(shard.path) as source, folder.writing(folder.image(shard.key)) as target:
            form.rewrite(source, target, lambda name: results.get(f"{shard.key}/{name}"))
    except ImageError as error:
        row = failed_row(shard.key, error.reason, error.message)._replace(bytes_in=shard.size)
        return manifest.to_table([row])
    except OSError as error:
        raise write_failed(folder.image(shard.key), error) from error
    return table


def read_pairs(
    form: ShardFormat, original: str, result: str, names: Collection[str]
) -> Iterator[tuple[str, bytes, bytes]]:
    """Images of a shard and their results.

    Args:
      form: of the shards.
      original, result: paths of the shard, and of the one that was made of it.
      names: of records in the original.

    Yields:
      Name, original and result of each that is there in both.

    Raises:
      ImageError: a shard cannot be read to where the last of them is.
      OSError: likewise.
    """
    left = set(names)
    with files.opened(original) as before, files.opened(result) as after:
        for one, other in zip(form.records(before), form.records(after)):  # in the same order
            if one.name in left and one.data is not None and other.data is not None:
                yield one.name, one.data, other.data
            left.discard(one.name)
            if not left:
                return


def before_and_after(
    folder: RunFolder, root: str, form: ShardFormat, row: ManifestRow
) -> Optional[tuple[bytes, bytes]]:
    """The original and the result of a row; None where one is gone.

    Args:
      folder: of the run.
      root: folder that the shards' keys are relative to.
      form: of the shards.
      row: of an image in one of them.
    """
    shard = str(row.output)
    try:
        for _, before, after in read_pairs(form, files.join(root, shard), folder.image(shard), [record_of(row)]):
            return before, after
    except (OSError, ImageError):
        pass
    return None


def record_of(row: ManifestRow) -> str:
    """The name of the record that a row of an image in a shard tells of."""
    return row.key[len(f"{row.output}/") :]
