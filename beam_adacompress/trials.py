"""What a backend says of an image under each of several JPEG configurations: the table that policies learn from.

reference ─▶ label ────────────────┐
    └▶ decode once ─▶ encode with each pair of tables ─▶ labels ─▶ size, rank, fidelity ─▶ Trial
"""

import collections
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Optional, Union

import pyarrow as pa

from beam_adacompress import jpeg, reward
from beam_adacompress.artefacts import Format
from beam_adacompress.backends import BackendError, Labels, Query, contract
from beam_adacompress.backends.client import Asked, Client
from beam_adacompress.backends.manners import Answered
from beam_adacompress.jpeg.tables import Quantisation
from beam_adacompress.records import NO_REFERENCE

NOT_AMONG = 0  # rank of a label that is not there
NO_ANSWER = -1  # rank where the backend failed
_BYTES_UNDER_WAY = 64 * 1024 * 1024


class Outcome(NamedTuple):
    """Of one configuration."""

    size: int  # bytes
    rank: int  # of the reference's best label among those of the compressed image, 1 the best; NOT_AMONG, NO_ANSWER
    fidelity: float  # of all labels, 0..1, see reward.fidelity


class Trial(NamedTuple):
    """One image under several configurations, seen by one backend. Lists are in the order of the configurations."""

    key: str
    sha256: str  # of the reference, hex
    backend: str  # as it was asked for
    backend_version: str
    width: int  # pixels, as displayed
    height: int
    bytes_in: int
    bytes_75: int  # at AdaCompress's reference: quality 75, standard tables, one plain scan
    features: Sequence[float]  # what a policy sees of the image, see policy.features
    sizes: Sequence[int]  # bytes
    ranks: Sequence[int]  # see Outcome
    fidelity: Sequence[float]
    calls: int  # that it took
    plain: Sequence[int]  # bytes with standard tables in one plain scan, at the qualities that were asked for
    parent: Optional[str] = None  # sha256 of the image that this is a copy of, to train with; None for others

    def agreement(self, top: int = reward.TOP) -> list[Optional[bool]]:
        """Whether the reference's label is among the `top` best; None where the backend failed."""
        return [None if rank == NO_ANSWER else 1 <= rank <= top for rank in self.ranks]


FORMAT = Format(
    "trials",
    version=2,
    columns=(
        pa.field("key", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("backend", pa.string(), nullable=False),
        pa.field("backend_version", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("bytes_in", pa.int64(), nullable=False),
        pa.field("bytes_75", pa.int64(), nullable=False),
        pa.field("features", pa.list_(pa.float32()), nullable=False),
        pa.field("sizes", pa.list_(pa.int64()), nullable=False),
        pa.field("ranks", pa.list_(pa.int16()), nullable=False),
        pa.field("fidelity", pa.list_(pa.float32()), nullable=False),
        pa.field("calls", pa.int64(), nullable=False),
        pa.field("plain", pa.list_(pa.int64()), nullable=False),
    ),
)


class Configuration(NamedTuple):
    """What an image is compressed with."""

    tables: Quantisation
    quality: Optional[int]  # 1..100, that gave these tables; None where none did
    align: bool = True  # whether the encoder may, see jpeg.Settings; False for the tables alone


class Tried(NamedTuple):
    """What came of asking one backend."""

    outcomes: dict[Configuration, Outcome]
    calls: int


def rank(reference: Labels, compressed: Labels) -> int:
    """Place of the reference's best label among those of the compressed image, from 1; NOT_AMONG if it is not there."""
    names = [label.name for label in compressed]
    return names.index(reference[0].name) + 1 if reference[0].name in names else NOT_AMONG


def try_configurations(
    image: Query,
    picture: jpeg.Picture,
    wanted: Mapping[str, Collection[Configuration]],
    clients: Mapping[str, Client],
    settings: jpeg.Settings,
) -> dict[str, Union[Tried, BackendError]]:
    """Compresses one image in several ways and asks backends what they see.

    Args:
      image: the reference.
      picture: of it.
      wanted: by backend, the configurations that it is asked about.
      clients: by backend.
      settings: of the encoder.

    Returns:
      By backend, what came of it, or why there is nothing to compare with: its error for the reference, or one with
      the reason `no-reference` where it sees nothing in it.
    """
    references = {
        name: clients[name].terms.too_many_pixels(picture.width, picture.height) or clients[name].ask(image)
        for name in wanted
    }
    found: dict[str, Union[Tried, BackendError]] = {}
    labels: dict[str, Labels] = {}
    calls: dict[str, int] = {}
    for name, reference in references.items():
        answered = Answered(reference) if isinstance(reference, BackendError) else reference.result()
        if isinstance(answered.answer, BackendError):
            found[name] = answered.answer
        elif not answered.answer:
            found[name] = BackendError(
                NO_REFERENCE, f"{name} sees nothing in the original: there is nothing to agree with"
            )
        else:
            labels[name], calls[name] = answered.answer, answered.calls
    asked: dict[str, dict[Configuration, _Question]] = {name: {} for name in labels}
    under_way: collections.deque[_Question] = collections.deque()
    size = 0
    for configuration in dict.fromkeys(each for name in labels for each in wanted[name]):
        encoded = picture.encode(configuration.tables, settings)
        for name in labels:
            if configuration in wanted[name]:
                question = _Question(len(encoded), clients[name].ask(Query(encoded, image.key, configuration.quality)))
                asked[name][configuration] = question
                under_way.append(question)
                size += question.size
        while size > _BYTES_UNDER_WAY:
            first = under_way.popleft()
            first.asked.result()
            size -= first.size
    return {**found, **{name: _tried(labels[name], calls[name], asked[name]) for name in labels}}


class _Question(NamedTuple):
    size: int  # bytes
    asked: Asked


def _tried(reference: Labels, calls: int, asked: Mapping[Configuration, _Question]) -> Union[Tried, BackendError]:
    outcomes = {}
    for configuration, question in asked.items():
        answered = question.asked.result()
        calls += answered.calls
        if isinstance(answered.answer, BackendError):
            if answered.answer.reason in contract.FINAL:
                return answered.answer
            outcomes[configuration] = Outcome(question.size, NO_ANSWER, 0.0)
        else:
            likeness = reward.fidelity(reference, answered.answer)
            outcomes[configuration] = Outcome(question.size, rank(reference, answered.answer), likeness)
    return Tried(outcomes, calls)
