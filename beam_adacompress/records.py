"""The rows that flow between transforms.

They are plain NamedTuples; `beam_adacompress.transforms` registers Beam's RowCoder for each, so they are
schema'd rows in every pipeline that uses the transforms. Beam reads the annotations of their fields as types, so
modules that define such rows do without `from __future__ import annotations`.
"""

from typing import NamedTuple, Optional

COMPRESSED = "compressed"
KEPT = "kept"
FAILED = "failed"


class EncodedImage(NamedTuple):
    """One image file, as bytes."""

    key: str  # what the caller calls it; for files the path relative to the input, '/'-separated
    data: bytes  # the reference: the file's bytes as they are


class Choice(NamedTuple):
    """The action that a policy took for one image, and what is needed to evaluate it later."""

    tables: str  # quantisation-table family
    quality: int  # 1..100
    policy_version: str
    propensity: float  # probability with which the policy took this action, (0, 1]
    expected_agreement: Optional[float]  # 0..1; None where the policy makes no promise


class ChosenImage(NamedTuple):
    """An image and the JPEG configuration chosen for it."""

    key: str
    data: bytes
    choice: Choice


class CompressedImage(NamedTuple):
    """An image beside its compressed form: the pair that a backend compares."""

    key: str
    data: bytes  # the reference
    choice: Choice
    compressed: bytes  # equal to `data` where status is `kept`
    status: str  # `compressed` or `kept`
    reason: Optional[str]  # why it was kept; None where status is `compressed`
    media_type: str  # of `compressed`, e.g. `image/jpeg`
    renamed: bool  # the format changed, so the file name needs another extension
    width: int  # pixels, as displayed (orientation applied)
    height: int
    subsampling: Optional[str]  # of the compressed JPEG: `4:2:0`, ...; None for grayscale and kept images
    seconds: float  # wall time of decoding and encoding


class ImageFailure(NamedTuple):
    """An image that a stage could not process. Nothing else of its bundle is lost."""

    key: str
    stage: str  # the transform's name
    reason: str  # see errors.ImageError
    error: str  # one sentence for a person
