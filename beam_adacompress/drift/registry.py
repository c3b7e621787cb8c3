"""The detectors by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, get_type_hints

from beam_adacompress.arguments import check_type
from beam_adacompress.drift.adacompress import AdaCompress
from beam_adacompress.drift.contract import Detector, Level, Rates
from beam_adacompress.drift.e_detector import EDetector
from beam_adacompress.drift.river_detectors import ADWIN, PageHinkley

DETECTORS: Mapping[str, type[Any]] = {each.name: each for each in (EDetector, AdaCompress, PageHinkley, ADWIN)}


def make(name: str, level: Level, rates: Rates, options: Mapping[str, Any]) -> Detector:
    """Makes a detector.

    Args:
      name: one of `DETECTORS`.
      level: of the policy.
      rates: to recommend.
      options: the detector's own, by name.

    Raises:
      TypeError: an option is of a wrong type.
      ValueError: the name or an option is unknown, or an option is out of range.
      AdaCompressError: the detector needs an extra that is not installed.
    """
    if name not in DETECTORS:
        raise ValueError(f"detector must be one of {', '.join(DETECTORS)}, got {name!r}")
    known = list(inspect.signature(DETECTORS[name]).parameters)[2:]
    if unknown := sorted(set(options) - set(known)):
        raise ValueError(f"the detector {name} has no option {unknown[0]!r}, but {', '.join(known)}")
    kinds = get_type_hints(DETECTORS[name].__init__)
    for option, value in options.items():
        check_type(f"the detector {name}", option, value, kinds[option])
    detector: Detector = DETECTORS[name](level, rates, **options)
    return detector
