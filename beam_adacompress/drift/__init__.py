"""Drift: whether a published policy still is what it was when it was published."""

from beam_adacompress.drift.contract import Detector as Detector
from beam_adacompress.drift.contract import Level as Level
from beam_adacompress.drift.contract import Rates as Rates
from beam_adacompress.drift.contract import Seen as Seen
from beam_adacompress.drift.contract import Verdict as Verdict
from beam_adacompress.drift.registry import DETECTORS as DETECTORS
from beam_adacompress.drift.registry import make as make
