"""What a policy looks at: the features of the image, and, where it has them, a stand-in network's answers.

    image ─┬─▶ features ───────────────────────────────────────────────┐
           ├─▶ (embedding) a network without its top ──────────────────┼─▶ one row of numbers
           └─▶ (lookahead) a small network: the original, and the image ┘
                           in a few candidate encodings

A stand-in is for those whose backend is remote: a small network in the worker. What it answers is no promise; what the
real backend agrees with is learned, and calibrated, from these numbers as from any others.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence
from typing import Any, Optional

import numpy as np

from beam_adacompress import jpeg, reward
from beam_adacompress.artefacts import Read, read_local
from beam_adacompress.backends import Backend, BackendError, Labels, Query
from beam_adacompress.backends import backend as backend_of
from beam_adacompress.backends.network import Network
from beam_adacompress.errors import AdaCompressError
from beam_adacompress.jpeg.tables import Quantisation
from beam_adacompress.policy.features import NAMES, Floats, features

_PLAIN = jpeg.Settings(optimize=False, progressive=False)  # the same pixels as the optimised file, sooner
_OF_ORIGINAL = 4
_OF_CANDIDATE = 4

Look = Callable[[jpeg.Source, jpeg.Picture], Floats]


@dataclasses.dataclass(frozen=True)
class Sight:
    """What a policy looks at beside the features of the image.

    Args:
      lookahead: URI of a network in the worker that looks at the original and at the candidates; None for none.
      candidates: pairs of tables; without any it looks at the original alone.
      embedding: URI of a network in the worker whose raw output joins the features; None for none.
      versions: of these networks, as they were when the policy was trained; empty before.

    Raises:
      ValueError: a URI is of no backend that runs a network here, there are candidates without a lookahead, or not one
        version for each network.
    """

    lookahead: Optional[str] = None
    candidates: tuple[Quantisation, ...] = ()
    embedding: Optional[str] = None
    versions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for what in ("lookahead", "embedding"):
            uri = getattr(self, what)
            if uri is not None and not isinstance(backend_of(uri), Network):
                raise ValueError(f"{what} is a network in the worker, such as litert:small.tflite, got {uri!r}")
        if self.lookahead is None and self.candidates:
            raise ValueError("there are candidates and no lookahead to show them to: give its network")
        if self.versions and len(self.versions) != len(self.networks):
            raise ValueError(f"there are {len(self.networks)} networks, and {len(self.versions)} versions of them")

    @property
    def networks(self) -> tuple[str, ...]:
        """The URIs."""
        return tuple(uri for uri in (self.lookahead, self.embedding) if uri is not None)

    def open(self, read: Read = read_local) -> Looking:
        """Loads the networks.

        Raises:
          AdaCompressError: one cannot be loaded, or is another than the policy was trained with.
        """
        opened: dict[str, Any] = {}
        for index, uri in enumerate(self.networks):
            network = backend_of(uri)
            network.open(read)
            found = network.terms.version
            if self.versions and found != self.versions[index]:
                raise AdaCompressError(
                    f"the policy was trained with another network than {uri}: that has version {found}, and "
                    f"{self.versions[index]} is needed"
                )
            opened[uri] = network
        return Looking(self, opened)

    def check(self, numbers: int) -> None:
        """Checks that a model takes as many numbers as this gives, as far as that is known without the networks.

        Raises:
          ValueError: it takes another number.
        """
        least = len(NAMES) + (0 if self.lookahead is None else _OF_ORIGINAL + _OF_CANDIDATE * len(self.candidates))
        if numbers < least or (self.embedding is None and numbers != least):
            raise ValueError(f"the model looks at {numbers} features, and there are {least}")

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def sight_from_json(content: dict[str, Any]) -> Sight:
    """What `Sight.to_json` gave.

    Raises:
      KeyError, TypeError, ValueError: it is no such thing.
    """
    candidates = tuple(
        Quantisation(tuple(luma), tuple(chroma), *rounding) for luma, chroma, *rounding in content["candidates"]
    )
    return Sight(content["lookahead"], candidates, content["embedding"], tuple(content["versions"]))


class Looking:
    """Looks at images; made by `Sight.open`."""

    def __init__(self, sight: Sight, networks: dict[str, Any]) -> None:
        self._sight = sight
        self._networks = networks
        self._lock = threading.Lock()  # interpreters take one image at a time
        self.versions = tuple(networks[uri].terms.version for uri in sight.networks)

    def __call__(self, opened: jpeg.Source, picture: jpeg.Picture) -> Floats:
        """All numbers of an image, `(numbers,)`; from any thread."""
        seen = features(opened, picture)
        if not self._networks:
            return seen
        with self._lock:
            return self._with_networks(seen, opened, picture)

    def _with_networks(self, seen: Floats, opened: jpeg.Source, picture: jpeg.Picture) -> Floats:
        parts = [seen]
        if (uri := self._sight.lookahead) is not None:
            parts.append(ahead(self._networks[uri], opened.data, picture, self._sight.candidates))
        if (uri := self._sight.embedding) is not None:
            network = self._networks[uri]
            parts.append(np.asarray(network.scores([network.look(opened.data)])[0], np.float32))
        return np.concatenate(parts)


def ahead(network: Backend, data: bytes, picture: jpeg.Picture, candidates: Sequence[Quantisation]) -> Floats:
    """What a stand-in says of an image, before and after compression.

    Of the original: its best score, the next one, the gap, and the entropy of its answer (nats). Of each candidate:
    how alike the answers are (see `reward.fidelity`), the score that its label has left, and whether that is still the
    best one, and among the best five. All zero where it sees nothing.

    Returns:
      `(4 + 4 * candidates,)`.
    """
    found = np.zeros((1 + len(candidates)) * _OF_CANDIDATE, np.float32)
    queries = [Query(data, ""), *(Query(picture.encode(each, _PLAIN), "") for each in candidates)]
    answers: list[Labels] = []
    for first in range(0, len(queries), network.terms.max_batch):
        for answer in network.label(queries[first : first + network.terms.max_batch], timeout=60.0):
            answers.append(() if isinstance(answer, BackendError) else answer)
    reference = answers[0]
    if not reference:
        return found
    scores = np.array([label.score for label in reference], np.float64)  # in which no share becomes 0
    second = float(scores[1]) if len(scores) > 1 else 0.0
    shares = scores / scores.sum()
    found[:_OF_ORIGINAL] = scores[0], second, scores[0] - second, -float(np.sum(shares * np.log(shares)))
    for index, answer in enumerate(answers[1:], start=1):
        if answer:
            left = next((label.score for label in answer if label.name == reference[0].name), 0.0)
            found[_OF_CANDIDATE * index : _OF_CANDIDATE * (index + 1)] = (
                reward.fidelity(reference, answer),
                left,
                reward.agreement(reference, answer, 1),
                reward.agreement(reference, answer),
            )
    return found
