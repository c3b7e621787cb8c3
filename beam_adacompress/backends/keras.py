"""`keras:NAME` or `keras:PATH`: a network of Keras Applications, or a saved model, in the worker."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from beam_adacompress.backends import applications, preprocess
from beam_adacompress.backends.contract import read_local
from beam_adacompress.backends.network import Network, one, read_file
from beam_adacompress.backends.preprocess import Pixels, Scores
from beam_adacompress.errors import AdaCompressError


@dataclasses.dataclass
class Keras(Network):
    """A Keras classifier, on whatever KERAS_BACKEND says (TensorFlow): an image of a fixed size in, scores out.

    A `path` with a separator or a dot is a file: `.keras` or `.h5`, loaded in Keras's safe mode, or the `.zip` of a
    SavedModel, which is a program and needs TensorFlow: open only your own. Without `mean` and `std` it is given RGB
    bytes as numbers 0..255. Without `labels` its classes are numbered.

    Any other `path` names a network of Keras Applications, e.g. `MobileNetV2`, which brings its preprocessing along
    (`mean` and `std` replace it) and, with ImageNet weights, the names of the classes (`labels` replaces them).

    Args:
      weights: of an Applications network: `imagenet`, which are downloaded; the path of a weights file; or `none`:
        random ones, always the same, and the generators of the process are seeded.
    """

    name: ClassVar[str] = "keras"
    max_batch: ClassVar[int] = 16

    weights: str = "imagenet"

    def open(self, read: Callable[[str], bytes] = read_local) -> None:
        try:
            import keras
        except ImportError as error:
            raise AdaCompressError("keras needs tensorflow: pip install 'beam-adacompress[train]'") from error

        names = preprocess.read_names(read_file(self.labels, read)) if self.labels else None
        self._normalise: Callable[[Any], Any] = lambda batch: batch
        if re.search(r"[/\\.]", self.path):
            data = read_file(self.path, read)
            self._model = through_file(data, self.path, lambda path: load_model(keras, path))
            version = hashlib.sha256(data).hexdigest()
        else:
            module = applications.module_of(keras, self.path)
            self._model = applications.build(
                keras, self.path, self.weights, lambda path, load: through_file(read_file(path, read), path, load)
            )
            version = f"{self.path} {_digest_of_weights(self._model)}"
            self._normalise = module.preprocess_input
            if self.weights == "imagenet" and names is None:
                names = applications.imagenet_names(module)
        if self.mean is not None and self.std is not None:
            mean, std = np.float32(self.mean), np.float32(self.std)
            self._normalise = lambda batch: (batch - mean) / std
        layout = preprocess.layout(one(self._model.inputs, "inputs", self.path).shape, self.path)
        classes = preprocess.classes(one(self._model.outputs, "outputs", self.path).shape, self.path)
        self._channels_first = layout.channels_first
        self._keras: Any = keras
        self.prepare(layout, classes, names, version)

    def scores(self, seen: Sequence[Pixels]) -> Scores:
        batch: Any = np.stack(seen).astype(np.float32)
        if self._channels_first:
            batch = batch.transpose(0, 3, 1, 2)
        (answer,) = self._keras.tree.flatten(self._model(self._normalise(batch), training=False))
        scores: Scores = self._keras.ops.convert_to_numpy(answer).astype(np.float32)
        return scores.reshape(len(seen), -1)


def through_file(data: bytes, path: str, load: Callable[[str], Any]) -> Any:
    """Loads bytes by way of a file of this machine with the same name: Keras goes by the ending."""
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / re.split(r"[/\\]", path)[-1]
        local.write_bytes(data)
        try:
            return load(str(local))
        except Exception as error:  # Keras raises nearly everything over a strange file
            raise AdaCompressError(f"Keras cannot load {path}: {applications.first_line(error)}") from error


def load_model(keras: Any, path: str) -> Any:
    """A saved model, or a SavedModel in a zip archive, without running code that it brings along."""
    if not path.endswith(".zip"):
        return keras.models.load_model(path, compile=False, safe_mode=True)
    with zipfile.ZipFile(path) as archive:
        archive.extractall(f"{path}.d")
    folder = next(Path(f"{path}.d").rglob("saved_model.pb")).parent
    layer = keras.layers.TFSMLayer(str(folder), call_endpoint="serving_default")
    specs = list(layer.call_endpoint_fn.structured_input_signature[1].values())
    image = keras.Input(batch_shape=one(specs, "inputs", path).shape)
    return keras.Model(image, layer(image))


def _digest_of_weights(model: Any) -> str:
    found = hashlib.sha256()
    for array in model.get_weights():
        found.update(array.tobytes())
    return found.hexdigest()
