"""TryConfigurations: the table that policies and tables are learned from, computed where the images are.

image ─▶ what is known of it? ─▶ encode, ask for the rest ─▶ Trial for each backend
              CACHE/trials/ ◀──────────┘

CACHE/trials/BACKEND-VERSION/ab/abcdef....json    all that is known of one image, named by the sha256 of its bytes
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Optional, Union

import apache_beam as beam

from beam_adacompress import jpeg
from beam_adacompress.backends import Backend, BackendError, Query, Terms, contract
from beam_adacompress.backends import backend as backend_of
from beam_adacompress.backends.client import Client
from beam_adacompress.backends.manners import Manners
from beam_adacompress.errors import AdaCompressError, ImageError
from beam_adacompress.jpeg import native
from beam_adacompress.jpeg.tables import ANNEXK, Quantisation, quantisation
from beam_adacompress.policy.lookahead import Sight
from beam_adacompress.transforms import files, rows
from beam_adacompress.transforms.connection import Connection
from beam_adacompress.transforms.metrics import CallMetrics, StageMetrics
from beam_adacompress.transforms.outputs import (
    FAILURES,
    SeveralOutputs,
    failure_row,
    failure_shape,
    in_global_window,
)
from beam_adacompress.trials import NO_ANSWER, Configuration, Outcome, Trial, Tried, try_configurations

VERSION = 1
REFERENCE_QUALITY = 75  # AdaCompress's reference

_STAGE = "TryConfigurations"
_PLAIN = jpeg.Settings(optimize=False, progressive=False)


class TrialsAndFailures(NamedTuple):
    """What TryConfigurations returns."""

    trials: beam.PCollection[Trial]
    failures: beam.PCollection[Any]  # ImageFailure, or a row with its fields and the input's other ones


@dataclasses.dataclass
class TryConfigurations(SeveralOutputs):
    """Compresses each image in several ways and asks backends what they see.

    Takes rows with `key: str` and `data: bytes`, and `parent` where there are copies among them, see `AddCopies`; gives
    a `Trial` for each image and backend. Images that cannot be decoded, or in which a backend sees nothing, are
    `failures`.

    Args:
      backends: URIs, or Backends.
      configurations: what to compress with.
      settings: of the encoder.
      sight: what is looked at for the features.
      plain: qualities at which the bytes of standard tables in one plain scan are measured, too.
      manners: towards the backends.
      cache: folder where outcomes and answers are kept, so that none is paid for twice; None for none.
      keep: whether outcomes are kept in the cache; where not, answers of paid backends are nevertheless.
      max_calls, max_cost, calls_per_second: of the job and each backend; None for no limit.
      job: the limits hold over all jobs of this name in the cache; None for one of its own.

    Raises:
      ValueError: an argument is out of range, or a backend is not known.
      AdaCompressError: the cache's filesystem cannot keep the limits.
    """

    backends: Sequence[Union[str, Backend]]
    configurations: Sequence[Configuration]
    settings: jpeg.Settings = dataclasses.field(default_factory=jpeg.Settings)
    sight: Sight = dataclasses.field(default_factory=Sight)
    plain: Sequence[int] = ()
    manners: Manners = dataclasses.field(default_factory=Manners)
    cache: Optional[str] = None
    keep: bool = True
    max_calls: Optional[int] = None
    max_cost: Optional[float] = None
    calls_per_second: Optional[float] = None
    job: Optional[str] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._connections()

    def _connections(self) -> dict[str, Connection]:
        limits = (self.max_calls, self.max_cost, self.calls_per_second)
        job = self.job or uuid.uuid4().hex
        found = {}
        for index, each in enumerate(self.backends):
            made = backend_of(each) if isinstance(each, str) else each
            name = each if isinstance(each, str) else f"{type(each).__name__}-{index}"
            if name in found:
                raise ValueError(f"the backend {name} is given twice")
            found[name] = Connection(made, self.manners, self.cache, *limits, keeps_local=False, job=f"{job}-{index}")
        return found

    def expand(self, images: beam.PCollection[Any]) -> TrialsAndFailures:
        fields = rows.fields_of(images, _STAGE, {"key": str, "data": bytes})
        failed, failed_type = failure_shape(fields, _STAGE)
        kept = self.cache if self.keep else None
        configurations = tuple(dict.fromkeys(self.configurations))
        assert len(configurations) == len(self.configurations), "a configuration stands twice"
        outputs = images | "Try" >> (
            beam.ParDo(
                _Try(self._connections(), configurations, self.settings, self.sight, tuple(self.plain), kept, failed)
            )
            .with_output_types(Trial, **{FAILURES: failed_type})
            .with_outputs(FAILURES, main="trials")
        )
        return TrialsAndFailures(outputs.trials, outputs.failures)


class _Try(beam.DoFn):
    def __init__(
        self,
        connections: Mapping[str, Connection],
        configurations: Sequence[Configuration],
        settings: jpeg.Settings,
        sight: Sight,
        plain: Sequence[int],
        cache: Optional[str],
        failed: rows.Shape,
    ) -> None:
        self._connections = connections
        self._configurations = configurations
        self._settings = settings
        self._sight = sight
        self._plain = plain
        self._cache = cache
        self._failed = failed
        self._metrics = StageMetrics(_STAGE)
        self._calls = CallMetrics(_STAGE)

    def setup(self) -> None:
        self._looking = self._sight.open(files.read)
        self._clients: Mapping[str, Client] = {name: each.client() for name, each in self._connections.items()}
        self._known = {
            name: _Known(self._cache, client.terms)
            for name, client in self._clients.items()
            if self._cache is not None and client.terms.cacheable
        }
        self._unaligned = dataclasses.replace(self._settings, align=False)

    def process(self, row: Any) -> Iterator[Any]:
        self._metrics.took(len(row.data))
        try:
            yield from self._trials(row)
        except ImageError as error:
            self._metrics.failed()
            yield beam.pvalue.TaggedOutput(FAILURES, failure_row(self._failed, row, _STAGE, error))

    def _used(self, picture: jpeg.Picture) -> list[Configuration]:
        """What each configuration comes to for a picture: those that come to the same tables are one."""
        first: dict[Quantisation, Configuration] = {}
        used = []
        for each in self._configurations:
            tables = picture.aligned(each.tables, self._settings) if each.align else each.tables
            used.append(first.setdefault(tables, Configuration(tables, each.quality, align=False)))
        return used

    def _trials(self, row: Any) -> Iterator[Any]:
        opened = jpeg.open_image(row.data, self._settings.max_pixels)
        picture = jpeg.open_picture(opened, self._settings)
        digest = hashlib.sha256(row.data).hexdigest()
        known = {name: self._known[name].get(digest) if name in self._known else {} for name in self._clients}
        used = self._used(picture)
        digests = {each: _digest(each, self._settings) for each in used}
        wanted = {
            name: missing
            for name in self._clients
            if (missing := [each for each, identity in digests.items() if identity not in known[name]])
        }
        tried = try_configurations(Query(row.data, row.key), picture, wanted, self._clients, self._unaligned)
        largest = len(jpeg.encode(picture.pixels, quantisation(ANNEXK, REFERENCE_QUALITY), _PLAIN))
        plain = [len(jpeg.encode(picture.pixels, quantisation(ANNEXK, quality), _PLAIN)) for quality in self._plain]
        seen = self._looking(opened, picture).tolist()
        for name, client in self._clients.items():
            new = tried.get(name, Tried({}, 0))
            if isinstance(new, BackendError):
                if new.reason == contract.CREDENTIALS:
                    raise AdaCompressError(new.message)
                self._metrics.failed()
                yield beam.pvalue.TaggedOutput(FAILURES, failure_row(self._failed, row, _STAGE, new))
                continue
            outcomes = {**known[name], **{digests[each]: each_of for each, each_of in new.outcomes.items()}}
            if name in self._known and new.outcomes:
                self._known[name].put(digest, outcomes)
            self._calls.throttled(client.take_throttled())
            in_order = [outcomes[digests[each]] for each in used]
            yield Trial(
                key=row.key,
                sha256=digest,
                backend=name,
                backend_version=client.terms.version,
                width=opened.width,
                height=opened.height,
                bytes_in=len(row.data),
                bytes_75=largest,
                features=seen,
                sizes=[outcome.size for outcome in in_order],
                ranks=[outcome.rank for outcome in in_order],
                fidelity=[outcome.fidelity for outcome in in_order],
                calls=new.calls,
                plain=plain,
                parent=getattr(row, "parent", None),
            )


class _Known:
    """What is known of images: one file for each image and backend, replaced by one that knows more.

    Configurations are told apart by a digest of their tables and of how the encoder codes, whatever they are called.
    """

    def __init__(self, root: str, terms: Terms) -> None:
        version = hashlib.sha256(terms.version.encode()).hexdigest()[:12]
        self._folder = files.join(root, "trials", f"{terms.name}-{version}")
        self._scratch = files.join(root, "scratch")

    def get(self, sha256: str) -> dict[str, Outcome]:
        """Outcomes by the digest of the configuration, of the image with a digest.

        Raises:
          AdaCompressError: they are there but cannot be read.
        """
        path = self._path(sha256)
        try:
            if files.status(path) is None:
                return {}
            content = json.loads(files.read(path))
            if content["format_version"] != VERSION:
                raise ValueError(f"it has version {content['format_version']}, and this release reads {VERSION}")
            return {name: Outcome(*each) for name, each in content["outcomes"].items()}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise AdaCompressError(f"the kept outcomes {path} cannot be read ({error}): delete that file") from error

    def put(self, sha256: str, outcomes: Mapping[str, Outcome]) -> None:
        """Keeps outcomes; a backend's failure is not kept.

        Raises:
          AdaCompressError: they cannot be written.
        """
        content = {
            "format": "adacompress.outcomes",
            "format_version": VERSION,
            "outcomes": {name: each for name, each in outcomes.items() if each.rank != NO_ANSWER},
        }
        path = self._path(sha256)
        try:
            files.write(path, json.dumps(content).encode(), self._scratch, "application/json")
        except OSError as error:
            raise AdaCompressError(f"the outcomes {path} cannot be kept: {error.strerror or error}") from error

    def _path(self, sha256: str) -> str:
        return files.join(self._folder, sha256[:2], f"{sha256}.json")


@functools.lru_cache(maxsize=4096)  # most images use the same tables
def _digest(used: Configuration, settings: jpeg.Settings) -> str:
    engine = native.resolved(settings.engine)
    coding = (settings.subsampling, settings.optimize, settings.progressive, engine, native.CODER)
    return hashlib.sha256(json.dumps([used[:2], coding]).encode()).hexdigest()[:16]


@dataclasses.dataclass
class KeepRows(beam.PTransform):
    """Writes NamedTuples below a folder, a file of JSON lines for each bundle, for `kept_rows`; gives the files' paths.

    Args:
      folder: for these files alone.
    """

    folder: str

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, kept: beam.PCollection[Any]) -> beam.PCollection[str]:
        return kept | "Keep" >> beam.ParDo(_Keep(self.folder)).with_output_types(str)


class _Keep(beam.DoFn):
    def __init__(self, folder: str) -> None:
        self._folder = folder

    def start_bundle(self) -> None:
        self._lines: list[str] = []

    def process(self, row: Any) -> None:
        self._lines.append(json.dumps(row))

    def finish_bundle(self) -> Iterator[Any]:
        if self._lines:
            path = files.join(self._folder, f"{uuid.uuid4().hex}.jsonl")
            data = "".join(f"{line}\n" for line in self._lines).encode()
            files.write(path, data, files.join(self._folder, "scratch"))
            yield in_global_window(path)


def kept_rows(folder: str) -> Iterator[list[Any]]:
    """The values of what KeepRows wrote, in no order; a bundle that was tried again may have written twice."""
    for file in files.listing(folder):
        if file.path.endswith(".jsonl"):
            yield from map(json.loads, files.read(file.path).decode().splitlines())


def read_trials(folder: str) -> list[Trial]:
    """The trials that KeepRows wrote, in the order of keys, contents and backends, each once."""
    trials = (Trial(*values) for values in kept_rows(folder))
    found = {(trial.key, trial.sha256, trial.backend): trial for trial in trials}
    return [found[name] for name in sorted(found)]
