"""What the backends share that run a network in the worker."""

from __future__ import annotations

import abc
import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Optional

import numpy as np

from beam_adacompress.backends import contract, preprocess
from beam_adacompress.backends.contract import Answer, Backend, BackendError, Query, Terms
from beam_adacompress.backends.preprocess import Layout, Pixels, Scores
from beam_adacompress.errors import AdaCompressError, ImageError


@dataclasses.dataclass
class Classifier(Backend):
    """A network in the worker that gives a score for each class, whatever it looks at.

    A network whose scores for its probes are within 0..1 answers probabilities, and its scores are taken as they are.
    Any other answers logits, and so does one image's answer that leaves 0..1: softmax.

    Args:
      path: of the model file.
      labels: path of a file that names the classes, one a line; None for what the model says, else their numbers.
      top: how many labels make an answer.
    """

    takes_path: ClassVar[bool] = True
    concurrent: ClassVar[bool] = False  # one interpreter, its input buffers
    name: ClassVar[str]
    max_batch: ClassVar[int]

    path: str
    labels: Optional[str] = None
    top: int = 10

    @property
    def terms(self) -> Terms:
        return self._terms

    @property
    def terms_need_open(self) -> bool:
        return True

    @abc.abstractmethod
    def look(self, data: bytes) -> Any:
        """What the network is given of an image file.

        Raises:
          ImageError: it cannot be read.
        """

    @abc.abstractmethod
    def scores(self, seen: Sequence[Any]) -> Scores:
        """What the network says of what `look` gave: images x classes, dequantised, as probabilities or logits."""

    def conclude(
        self,
        classes: int,
        names: Optional[Sequence[str]],
        settings: Sequence[Any],
        probes: Sequence[Any],
        max_pixels: Optional[int] = None,
    ) -> None:
        """The end of `open`, once `scores` works.

        Args:
          classes: how many scores there are.
          names: of the classes; None for their numbers.
          settings: all that answers depend on, JSON-able.
          probes: as `look` gives them.
          max_pixels: of an image.

        Raises:
          AdaCompressError: there is not one name for each class.
        """
        if names is not None and len(names) != classes:
            where = self.labels or "the label file in the model"
            raise AdaCompressError(f"{where} names {len(names)} classes, but {self.path} tells {classes} apart")
        self._names = numbered(classes) if names is None else names
        digest = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]
        self._terms = Terms(self.name, digest, max_batch=self.max_batch, max_pixels=max_pixels, is_local=True)
        self._logits = not preprocess.are_probabilities(self.scores(probes))

    def label(self, images: Sequence[Query], timeout: float) -> Sequence[Answer]:
        seen: list[Any] = []
        failures: list[Optional[BackendError]] = []
        for image in images:
            try:
                seen.append(self.look(image.data))
                failures.append(None)
            except ImageError as error:
                failures.append(BackendError(contract.BAD_IMAGE, error.message))
        answers = iter([self._answer(scores) for scores in self.scores(seen)] if seen else [])
        return [failure or next(answers) for failure in failures]

    def _answer(self, scores: Scores) -> Answer:
        if not np.isfinite(scores).all():
            return BackendError(contract.BAD_ANSWER, f"{self.path}: a score is not a finite number", retryable=False)
        logits = self._logits or not preprocess.are_probabilities(scores)
        return preprocess.ranked(scores, self._names, self.top, logits)


def numbered(classes: int) -> list[str]:
    """Names of classes that have none."""
    return [str(number) for number in range(classes)]


@dataclasses.dataclass
class Network(Classifier):
    """A network that classifies images in the worker: pixels in, one score for each class out.

    Args:
      path, labels, top: as for Classifier.
      mean, std: the network takes (byte - mean) / std; both or neither. None for what the model says.
      crop: the part of the shorter side that is looked at, in the centre, (0, 1]; 0.875 as Google's models do.
      resize: `crop` keeps the aspect ratio; `squash` fits the whole image into the input, and `crop` does not apply.

    Raises:
      ValueError: a value is out of its range.
    """

    mean: Optional[float] = None
    std: Optional[float] = None
    crop: float = 0.875
    resize: str = "crop"

    def __post_init__(self) -> None:
        if (self.mean is None) != (self.std is None) or self.std == 0:
            raise ValueError(f"mean={self.mean} std={self.std}: give both, and std not zero, or neither")
        if not 0 < self.crop <= 1:
            raise ValueError(f"crop={self.crop} is not within (0, 1]")
        if self.resize not in ("crop", "squash"):
            raise ValueError(f"resize={self.resize} is neither crop nor squash")
        if self.top < 1:
            raise ValueError(f"top={self.top} is less than 1")

    def prepare(self, layout: Layout, classes: int, names: Optional[Sequence[str]], version: str) -> None:
        """The end of `open`, once `scores` works.

        Args:
          layout: of the input.
          classes: how many scores there are.
          names: of the classes; None for their numbers.
          version: of the model, and of the settings that the subclass adds and that change answers.

        Raises:
          AdaCompressError: there is not one name for each class.
        """
        self._layout = layout
        settings = [preprocess.RULES, version, self.top, self.mean, self.std, self.crop, self.resize]
        shape = (layout.height, layout.width, layout.channels)
        noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        probes = [np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8), noise]
        self.conclude(classes, names, [*settings, names], probes)

    def look(self, data: bytes) -> Pixels:
        return preprocess.pixels(data, self._layout, self.crop, self.resize)


def one(found: Sequence[Any], what: str, path: str) -> Any:
    """The only element.

    Raises:
      AdaCompressError: there are none or several.
    """
    if len(found) != 1:
        raise AdaCompressError(f"{path} has {len(found)} {what}, and a classifier of images has one")
    return found[0]


def read_file(path: str, read: Callable[[str], bytes]) -> bytes:
    """The bytes of a file.

    Raises:
      AdaCompressError: it cannot be read.
    """
    try:
        return read(path)
    except OSError as error:
        raise AdaCompressError(f"{path} cannot be read: {error.strerror or error}") from error
