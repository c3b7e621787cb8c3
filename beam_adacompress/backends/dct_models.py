"""Networks on DCT input from files: `.keras` on Keras, `.tflite` on LiteRT, which needs no other part of TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Optional

import numpy as np

from beam_adacompress.backends import preprocess
from beam_adacompress.backends.keras import load_model, through_file
from beam_adacompress.backends.network import one
from beam_adacompress.backends.preprocess import Scores
from beam_adacompress.errors import AdaCompressError
from beam_adacompress.jpeg.geometry import View

ENDINGS = (".keras", ".tflite")

_Shape = tuple[Optional[int], ...]  # None or -1 where a dimension is open


class Model(NamedTuple):
    """A network with its two inputs sorted out."""

    rows: int  # of blocks of Y
    columns: int
    classes: int
    scores: Callable[[Sequence[View]], Scores]  # views x classes, as the network gives them


def load(data: bytes, path: str, threads: int = 1) -> Model:
    """Loads a model whose inputs are Y and CbCr, in either order.

    Args:
      data: the file.
      path: what it is called; the ending says what it is.
      threads: of LiteRT, for one image.

    Raises:
      AdaCompressError: a package is missing, or it is no such model.
    """
    made = _keras(data, path) if path.endswith(".keras") else _litert(data, path, threads)
    luma, rows, columns = _fitting(made.inputs, path)

    def scores(views: Sequence[View]) -> Scores:
        y, cbcr = (np.stack(arrays) for arrays in zip(*views))
        answers = made.run([cbcr, y] if luma else [y, cbcr])
        return np.asarray(answers, np.float32).reshape(len(views), -1)

    return Model(rows, columns, preprocess.classes(made.output, path), scores)


def _fitting(inputs: Sequence[_Shape], path: str) -> tuple[int, int, int]:
    """Which input is Y, and how many rows and columns of blocks it has: told by the bands, 64 or 128."""
    for luma, (y, chroma) in enumerate(zip(inputs, inputs[::-1])):
        if len(inputs) == 2 and len(y) == len(chroma) == 4 and (y[3], chroma[3]) == (64, 128):
            _, rows, columns, _ = chroma
            if rows and columns and min(rows, columns) > 0 and y[1:3] == (2 * rows, 2 * columns):
                return luma, 2 * rows, 2 * columns
    takes = " and ".join(" x ".join("?" if size in (None, -1) else str(size) for size in shape) for shape in inputs)
    raise AdaCompressError(
        f"{path} takes {takes}: a network on DCT input takes Y in blocks of a fixed even number of rows and columns, "
        "x 64, and CbCr in half as many of both, x 128"
    )


class _Loaded(NamedTuple):
    inputs: list[_Shape]
    output: _Shape
    run: Callable[[list[Any]], Any]  # of a batch: an array for each of `inputs`


def _litert(data: bytes, path: str, threads: int) -> _Loaded:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise AdaCompressError("dct needs ai-edge-litert: pip install 'beam-adacompress[litert]'") from error
    try:
        interpreter: Any = Interpreter(model_content=data, num_threads=threads)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise AdaCompressError(f"{path} is no TFLite model that can run here: {error}") from error
    inputs, output = interpreter.get_input_details(), one(interpreter.get_output_details(), "outputs", path)
    for found in (*inputs, output):
        if np.dtype(found["dtype"]) != np.float32:
            raise AdaCompressError(f"{path} takes or gives {np.dtype(found['dtype'])} numbers, not float32")
        if found["shape"][:1].tolist() not in ([], [1]):
            raise AdaCompressError(f"{path} takes {found['shape'][0]} images at a time: convert it for a batch of 1")

    def run(batch: list[Any]) -> Any:
        return [invoked(image) for image in zip(*batch)]

    def invoked(image: Sequence[Any]) -> Any:
        for place, array in zip(inputs, image):
            interpreter.set_tensor(place["index"], array[np.newaxis])
        interpreter.invoke()
        return interpreter.get_tensor(output["index"])

    return _Loaded([tuple(found["shape_signature"].tolist()) for found in inputs], tuple(output["shape"].tolist()), run)


def _keras(data: bytes, path: str) -> _Loaded:
    try:
        import keras
    except ImportError as error:
        raise AdaCompressError("dct needs keras: pip install 'beam-adacompress[train]'") from error
    model = through_file(data, path, lambda file: load_model(keras, file))

    def run(batch: list[Any]) -> Any:
        (answer,) = keras.tree.flatten(model(batch, training=False))
        return keras.ops.convert_to_numpy(answer)

    return _Loaded([found.shape for found in model.inputs], one(model.outputs, "outputs", path).shape, run)
