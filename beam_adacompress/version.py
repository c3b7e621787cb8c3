"""The version of the package, and of what the bytes it writes depend on."""

from __future__ import annotations

import platform
from importlib import metadata

from PIL import features

from beam_adacompress.jpeg import native

__version__ = "0.1.0"


def versions() -> dict[str, str]:
    """Versions of the software that a run's bytes depend on, for its record."""
    return {
        "beam-adacompress": __version__,
        "apache-beam": metadata.version("apache-beam"),
        "pillow": metadata.version("pillow"),
        "libjpeg-turbo": str(features.version("libjpeg_turbo") or features.version("jpg")),
        "engine": native.engine(),
        "python": platform.python_version(),
    }
