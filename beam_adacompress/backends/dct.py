"""`dct:PATH`: a network on JPEG's DCT coefficients in the worker, as `dct_networks.build` makes them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import ClassVar, Optional

import numpy as np

from beam_adacompress.backends import contract, dct_models, preprocess
from beam_adacompress.backends.contract import Answer, Backend, BackendError, Query, Terms, read_local
from beam_adacompress.backends.network import read_file
from beam_adacompress.backends.preprocess import Scores
from beam_adacompress.errors import AdaCompressError, ImageError
from beam_adacompress.jpeg import dct, geometry
from beam_adacompress.jpeg.codec import Settings
from beam_adacompress.jpeg.geometry import View


@dataclasses.dataclass
class DCT(Backend):
    """A classifier with two inputs, the dequantised coefficients of Y, and of Cb and Cr at 4:2:0; a score each class.

    What it sees of an image is `jpeg.geometry.view`. An image that is no JPEG in YCbCr or grey is a `bad-image`.
    A network whose scores for grey and for noise are within 0..1 answers probabilities, any other logits.

    Args:
      path: of the model: `.keras`, loaded in Keras's safe mode, or `.tflite` in float32, on LiteRT.
      labels: path of a file that names the classes, one a line; None for their numbers.
      top: how many labels make an answer.
      resize: `halve` an image as often as the network's input fits in twice, or `crop` its centre as it is.
      order: of the 64 coefficients with which the network was trained: `natural` or `zigzag`.
      threads: of LiteRT, for one image.

    Raises:
      ValueError: a value is out of its range.
    """

    takes_path: ClassVar[bool] = True
    concurrent: ClassVar[bool] = False  # one interpreter, two input buffers

    path: str
    labels: Optional[str] = None
    top: int = 10
    resize: str = "halve"
    order: str = "natural"
    threads: int = 1

    def __post_init__(self) -> None:
        if not self.path.endswith(dct_models.ENDINGS):
            raise ValueError(f"path={self.path} ends in none of {', '.join(dct_models.ENDINGS)}")
        if self.resize not in geometry.RESIZES:
            raise ValueError(f"resize={self.resize} is none of {', '.join(geometry.RESIZES)}")
        if self.order not in dct.ORDERS:
            raise ValueError(f"order={self.order} is none of {', '.join(dct.ORDERS)}")
        if min(self.top, self.threads) < 1:
            raise ValueError(f"top={self.top} threads={self.threads}: both must be at least 1")

    @property
    def terms(self) -> Terms:
        return self._terms

    @property
    def terms_need_open(self) -> bool:
        return True

    def open(self, read: Callable[[str], bytes] = read_local) -> None:
        dct.require_reader()
        data = read_file(self.path, read)
        self._model = dct_models.load(data, self.path, self.threads)
        classes = self._model.classes
        labels = read_file(self.labels, read) if self.labels else None
        self._names = [str(number) for number in range(classes)] if labels is None else preprocess.read_names(labels)
        if len(self._names) != classes:
            raise AdaCompressError(
                f"{self.labels} names {len(self._names)} classes, but {self.path} tells {classes} apart"
            )
        settings = [geometry.RULES, hashlib.sha256(data).hexdigest(), self._names, self.top, self.resize, self.order]
        version = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]
        self._terms = Terms("dct", version, max_batch=16, max_pixels=Settings.max_pixels, is_local=True)
        self._logits = not preprocess.are_probabilities(self._model.scores(self._probes()))

    def _probes(self) -> list[View]:
        noise = np.random.default_rng(0).normal(0, 50, (self._model.rows, self._model.columns, 64)).astype(np.float32)
        return [View(y, np.concatenate([y[::2, ::2]] * 2, axis=-1)) for y in (np.zeros_like(noise), noise)]

    def label(self, images: Sequence[Query], timeout: float) -> Sequence[Answer]:
        views: list[View] = []
        failures: list[Optional[BackendError]] = []
        for image in images:
            try:
                views.append(geometry.view(image.data, self._model.rows, self._model.columns, self.resize, self.order))
                failures.append(None)
            except ImageError as error:
                failures.append(BackendError(contract.BAD_IMAGE, error.message))
        answers = iter([self._answer(scores) for scores in self._model.scores(views)] if views else [])
        return [failure or next(answers) for failure in failures]

    def _answer(self, scores: Scores) -> Answer:
        if not np.isfinite(scores).all():
            return BackendError(contract.BAD_ANSWER, f"{self.path}: a score is not a finite number", retryable=False)
        logits = self._logits or not preprocess.are_probabilities(scores)
        return preprocess.ranked(scores, self._names, self.top, logits)
