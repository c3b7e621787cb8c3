"""`dct:PATH`: a network on JPEG's DCT coefficients in the worker, as `dct_networks.build` makes them."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np

from beam_adacompress.backends import dct_models, preprocess
from beam_adacompress.backends.contract import read_local
from beam_adacompress.backends.network import Classifier, numbered, read_file
from beam_adacompress.backends.preprocess import Scores
from beam_adacompress.jpeg import dct, geometry
from beam_adacompress.jpeg.geometry import View
from beam_adacompress.jpeg.settings import Settings


@dataclasses.dataclass
class DCT(Classifier):
    """A classifier with two inputs, the dequantised coefficients of Y, and of Cb and Cr at 4:2:0; a score each class.

    What it sees of an image is `jpeg.geometry.view`. An image that is no JPEG in YCbCr or grey is a `bad-image`.

    Args:
      path: of the model: `.keras`, loaded in Keras's safe mode, or `.tflite` in float32, on LiteRT.
      labels, top: as for Classifier.
      resize: `halve` an image as often as the network's input fits in twice, or `crop` its centre as it is.
      order: of the 64 coefficients with which the network was trained: `natural` or `zigzag`.
      threads: of LiteRT, for one image.

    Raises:
      ValueError: a value is out of its range.
    """

    name: ClassVar[str] = "dct"
    max_batch: ClassVar[int] = 16

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

    def open(self, read: Callable[[str], bytes] = read_local) -> None:
        dct.require_reader()
        data = read_file(self.path, read)
        self._model = dct_models.load(data, self.path, self.threads)
        classes = self._model.classes
        names = preprocess.read_names(read_file(self.labels, read)) if self.labels else numbered(classes)
        version = hashlib.sha256(data).hexdigest()
        settings = [geometry.RULES, version, names, self.top, self.resize, self.order]
        self.conclude(classes, names, settings, self._probes(), Settings.max_pixels)

    def _probes(self) -> list[View]:
        noise = np.random.default_rng(0).normal(0, 50, (self._model.rows, self._model.columns, 64)).astype(np.float32)
        return [View(y, np.concatenate([y[::2, ::2]] * 2, axis=-1)) for y in (np.zeros_like(noise), noise)]

    def look(self, data: bytes) -> View:
        return geometry.view(data, self._model.rows, self._model.columns, self.resize, self.order)

    def scores(self, seen: Sequence[View]) -> Scores:
        return self._model.scores(seen)
