"""`litert:PATH`: a TFLite image classifier in the worker, on LiteRT. No other part of TensorFlow is needed."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from beam_adacompress.backends import preprocess, tflite_metadata
from beam_adacompress.backends.contract import read_local
from beam_adacompress.backends.network import Network, one, read_file
from beam_adacompress.backends.preprocess import Pixels, Scores
from beam_adacompress.errors import AdaCompressError


@dataclasses.dataclass
class LiteRT(Network):
    """A TFLite classifier: one image of a fixed size in (NHWC or NCHW), one score for each class out.

    Size, layout, number type and quantisation are the model's. Where `mean` and `std` are not given, they are those
    of the model's metadata; without metadata a floating-point input takes -1..1 (mean and std 127.5), and an integer
    one the bytes as they are (uint8) or less 128 (int8), as quantised networks usually do. Class names not given are
    those of the metadata, too.

    Args:
      threads: for one image.
      channels: `rgb` or `bgr`, the order in which the network takes them.
    """

    name: ClassVar[str] = "litert"
    max_batch: ClassVar[int] = 8

    threads: int = 1
    channels: str = "rgb"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.threads < 1:
            raise ValueError(f"threads={self.threads} is less than 1")
        if self.channels not in ("rgb", "bgr"):
            raise ValueError(f"channels={self.channels} is neither rgb nor bgr")

    def open(self, read: Callable[[str], bytes] = read_local) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise AdaCompressError("litert needs ai-edge-litert: pip install 'beam-adacompress[litert]'") from error
        model = read_file(self.path, read)
        try:
            self._interpreter: Any = Interpreter(model_content=model, num_threads=self.threads)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise AdaCompressError(f"{self.path} is no TFLite model that can run here: {error}") from error
        self._input = one(self._interpreter.get_input_details(), "inputs", self.path)
        self._output = one(self._interpreter.get_output_details(), "outputs", self.path)
        layout = preprocess.layout(tuple(self._input["shape_signature"].tolist()), self.path)
        if (together := self._input["shape"][0]) != 1:
            raise AdaCompressError(f"{self.path} takes {together} images at a time: convert it for a batch of 1")
        self._channels_first = layout.channels_first
        self._fed = self._feeding(model, layout.channels)
        labels = read_file(self.labels, read) if self.labels else tflite_metadata.label_file(model)
        self.prepare(
            layout,
            preprocess.classes(tuple(self._output["shape"].tolist()), self.path),
            None if labels is None else preprocess.read_names(labels),
            hashlib.sha256(model).hexdigest() + self.channels,
        )

    def scores(self, seen: Sequence[Pixels]) -> Scores:
        return np.stack([self._scores(picture) for picture in seen])

    def _scores(self, picture: Pixels) -> Scores:
        if self.channels == "bgr":
            picture = picture[:, :, ::-1]
        fed = self._fed(picture)
        if self._channels_first:
            fed = fed.transpose(2, 0, 1)
        self._interpreter.set_tensor(self._input["index"], fed[np.newaxis])
        self._interpreter.invoke()
        scores = self._interpreter.get_tensor(self._output["index"]).reshape(-1).astype(np.float32)
        scale, zero_point = self._output["quantization"]
        dequantised: Scores = (scores - np.float32(zero_point)) * np.float32(scale) if scale else scores
        return dequantised

    def _feeding(self, model: bytes, channels: int) -> Callable[[NDArray[Any]], NDArray[Any]]:
        """The function that makes of bytes (..., channels) what the network is fed."""
        dtype = np.dtype(self._input["dtype"])
        if dtype not in (np.uint8, np.int8, np.float32, np.float16):
            raise AdaCompressError(f"{self.path} takes {dtype} numbers, not uint8, int8, float32 or float16")
        scale, zero_point = self._input["quantization"]
        is_float = dtype.kind == "f"
        stated = None
        if self.mean is not None and self.std is not None:
            stated = [self.mean], [self.std]
        elif scale or is_float:  # an integer that stands for no real number is a byte, whatever is said of its mean
            stated = tflite_metadata.normalisation(model, channels)
        mean, std = (np.array(values, np.float32) for values in stated or ([127.5], [127.5]))
        if is_float:
            return lambda picture: ((picture - mean) / std).astype(dtype, copy=False)
        limits = np.iinfo(dtype)
        step = std * np.float32(scale or 1.0)

        def plain(picture: NDArray[Any]) -> NDArray[Any]:
            fed: NDArray[Any] = (picture ^ np.uint8(-limits.min)).view(dtype)  # less 128 for int8
            return fed

        def quantised(picture: NDArray[Any]) -> NDArray[Any]:
            steps = np.rint((picture - mean) / step + zero_point)
            return np.asarray(np.clip(steps, limits.min, limits.max), dtype)

        # Google's quantised networks take the bytes as they are and state a mean of 127.5 where it is 128.
        every = np.repeat(np.arange(256, dtype=np.uint8)[:, np.newaxis], channels, axis=1)
        off_by = np.abs(np.subtract(quantised(every), plain(every), dtype=np.int32)).max()
        return plain if stated is None or off_by <= 1 else quantised
