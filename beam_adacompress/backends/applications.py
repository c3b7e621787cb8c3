"""The networks of Keras Applications by name, with their preprocessing, weights and class names."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from beam_adacompress.errors import AdaCompressError


def module_of(keras: Any, name: str) -> Any:
    """The module of Keras Applications that has the network `name` and its preprocessing.

    Raises:
      AdaCompressError: there is no such network; the message says which names are near.
    """
    modules = [module for module in vars(keras.applications).values() if inspect.ismodule(module)]
    known = {member: module for module in modules for member in vars(module) if member[0].isupper()}
    if name not in known:
        near = ", ".join(difflib.get_close_matches(name, known, 8, 0.5) or sorted(known))
        raise AdaCompressError(
            f"{name} is no network of Keras Applications and no file (.keras, .h5, .zip): try {near}"
        )
    return known[name]


def build(keras: Any, name: str, weights: str, through_file: Callable[[str, Callable[[str], Any]], Any]) -> Any:
    """Makes a network.

    Args:
      keras: the package.
      name: of the network.
      weights: `imagenet` (downloaded, cached by Keras), `none` (random, always the same), or the path of a file.
      through_file: loads a path with a function that takes files of this machine only.

    Raises:
      AdaCompressError: the weights cannot be downloaded or do not fit.
    """
    make = getattr(module_of(keras, name), name)
    if weights == "none":
        keras.utils.set_random_seed(0)
        return make(weights=None)
    if weights != "imagenet":
        return through_file(weights, lambda path: make(weights=path))
    try:
        return make(weights="imagenet")
    except Exception as error:  # the download raises plain Exception
        raise AdaCompressError(
            f"the ImageNet weights of {name} cannot be downloaded ({first_line(error)}): "
            "put the file where the workers can read it and give weights=PATH"
        ) from error


def imagenet_names(module: Any) -> list[str]:
    """The names of ImageNet's 1000 classes as Keras spells them, which it downloads.

    Raises:
      AdaCompressError: it could not.
    """
    falling = np.arange(1000, 0, -1, dtype=np.float32)[np.newaxis]  # so that ranking keeps the order of the classes
    try:
        return [name for _, name, _ in module.decode_predictions(falling, top=1000)[0]]
    except Exception as error:  # the download raises plain Exception
        why = first_line(error)
        raise AdaCompressError(
            f"the names of ImageNet's classes cannot be downloaded ({why}): give labels=FILE"
        ) from error


def first_line(error: Exception) -> str:
    """Of what Keras says, which can be a page."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
