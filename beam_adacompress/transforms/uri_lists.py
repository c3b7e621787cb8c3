"""Lists of URIs: a CSV or Parquet file that says where the images are, beside whatever else it says of them.

    ListUris ─▶ ImageFile ─▶ SpreadImages (shuffle) ─▶ StatFiles ─▶ ReadFiles ─▶ ...

At the end of a run OUTPUT/list.csv names the results.
"""

import dataclasses
import itertools
import posixpath
from collections.abc import Iterator, Sequence
from typing import Any, Optional, Union

import apache_beam as beam

from beam_adacompress import naming
from beam_adacompress.errors import AdaCompressError, ImageError
from beam_adacompress.formats import UriList, read_list
from beam_adacompress.transforms import files
from beam_adacompress.transforms.outputs import FAILURES, ImagesAndFailures, SeveralOutputs
from beam_adacompress.transforms.runs import RunFolder, read_rows
from beam_adacompress.transforms.sources import SHARD_SIZE, ImageFile, LocatedFailure, image_file, list_by

_STAGE = "ListImages"


def read_uris(path: str, image_field: Optional[str]) -> tuple[UriList, list[str]]:
    """A list, and its URIs; those relative to the list are completed.

    Args:
      path: of the list.
      image_field: the column with the URIs; None for the one that is called as such columns are.

    Raises:
      AdaCompressError: it cannot be read, has no such column, or is of several filesystems.
    """
    try:
        listed = read_list(files.read(path), path, image_field)
    except OSError as error:
        raise AdaCompressError(f"cannot read the list {path}: {error.strerror or error}") from error
    except ImageError as error:
        raise AdaCompressError(f"cannot read the list {path}: {error.message}") from error
    uris = [uri if _is_absolute(uri) else _beside(path, uri) for uri in listed.uris]
    if len(schemes := sorted({_scheme(uri) for uri in uris})) > 1:
        raise AdaCompressError(
            f"the list {path} has URIs of several filesystems ({', '.join(schemes)}): make it several lists"
        )
    return listed, uris


def _is_absolute(uri: str) -> bool:
    return "://" in uri or uri.startswith("/") or not files.is_local(uri)


def _beside(path: str, uri: str) -> str:
    """A URI that is relative to the list at a path."""
    scheme, mark, rest = path.rpartition("://")
    return scheme + mark + posixpath.normpath(posixpath.join(posixpath.dirname(rest), uri))


def _scheme(uri: str) -> str:
    return uri.partition("://")[0] if "://" in uri else "a disk"


def root_of(uris: Sequence[str]) -> str:
    """The folder that the keys of a list are relative to: the deepest one that all are in."""
    if not uris:
        return ""
    first, last = min(uris).split("/"), max(uris).split("/")
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first[:-1], last[:-1]))
    return "/".join(part for part, _ in same) + "/"


@dataclasses.dataclass
class ListUris(SeveralOutputs):
    """Lists the images that a list names as `ImageFile` rows, whose sizes and times `StatFiles` finds out.

    Args:
      path: of the list.
      image_field: as for ReadImages.
    """

    path: str
    image_field: Optional[str] = None

    def expand(self, pbegin: beam.pvalue.PBegin) -> ImagesAndFailures:
        return ImagesAndFailures(*list_by(_List(), pbegin, (self.path, self.image_field), ImageFile))


class _List(beam.DoFn):
    def process(self, element: tuple[str, Optional[str]]) -> Iterator[Any]:
        for file in list_uris(*element):
            yield beam.pvalue.TaggedOutput(FAILURES, file) if isinstance(file, LocatedFailure) else file


def list_uris(path: str, image_field: Optional[str]) -> Iterator[Union[ImageFile, LocatedFailure]]:
    """The images that a list names, each once, in the order of their keys; as failures those whose names are no keys.

    Args:
      path, image_field: as for `read_uris`, which see for errors.
    """
    _, uris = read_uris(path, image_field)
    distinct = sorted(set(uris))
    start = len(root_of(distinct))
    for index, (uri, name) in enumerate(zip(distinct, naming.plan([uri[start:] for uri in distinct]))):
        yield image_file(files.FoundFile(uri, 0, 0.0), name, _STAGE, index // SHARD_SIZE)


@dataclasses.dataclass
class StatFiles(SeveralOutputs):
    """Finds out size and time of each `ImageFile`; failures are those that are not there."""

    def expand(self, images: beam.PCollection[ImageFile]) -> ImagesAndFailures:
        found = images | "Stat" >> (
            beam.ParDo(_Stat())
            .with_output_types(ImageFile, **{FAILURES: LocatedFailure})
            .with_outputs(FAILURES, main="images")
        )
        return ImagesAndFailures(found.images, found.failures)


class _Stat(beam.DoFn):
    def process(self, file: ImageFile) -> Iterator[Any]:
        why = "there is no such file"
        try:
            found = files.status(file.path)
        except OSError as error:
            found, why = None, f"reading failed: {error.strerror or error}"
        if found is None:
            failed = LocatedFailure(file.key, 0, file.shard, None, _STAGE, "unreadable", f"{file.path}: {why}")
            yield beam.pvalue.TaggedOutput(FAILURES, failed)
            return
        yield file._replace(bytes_in=found.size, modified=found.modified)


def list_file(folder: RunFolder, path: str) -> str:
    """Where the list of a run's results is: `list.csv`, `list.parquet`, ..., as the input's name ends."""
    name = posixpath.basename(path)
    return files.join(folder.output, "list" + name[name.find(".") :] if "." in name else "list")


def write_list(folder: RunFolder, path: str, image_field: Optional[str]) -> None:
    """Writes the list again, with the paths of the results in the place of those of the originals.

    Images that failed stay as they were named. The list, and the names of all results, are in memory meanwhile.

    Args:
      folder: of the run, with its manifest.
      path, image_field: as for `read_uris`.
    """
    listed, uris = read_uris(path, image_field)
    start = len(root_of(uris))
    outputs = {row.key: row.output for part in folder.parts() for row in read_rows(part) if row.is_written}
    results = [
        folder.image(str(outputs[uri[start:]])) if uri[start:] in outputs else named
        for uri, named in zip(uris, listed.uris)
    ]
    folder.write(list_file(folder, path), listed.replaced(results))
