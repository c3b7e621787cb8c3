"""The rows that flow between transforms.

They are plain NamedTuples; `beam_adacompress.transforms` registers Beam's RowCoder for each, so they are
schema'd rows in every pipeline that uses the transforms. Beam reads the annotations of their fields as types, so
modules that define such rows do without `from __future__ import annotations`.
"""

from collections.abc import Sequence
from typing import NamedTuple, Optional

COMPRESSED = "compressed"
KEPT = "kept"
FAILED = "failed"

SCORED = "scored"
NO_REFERENCE = "no-reference"
SKIPPED = "skipped"


class EncodedImage(NamedTuple):
    """One image file, as bytes."""

    key: str  # what the caller calls it; for files the path relative to the input, '/'-separated
    data: bytes  # the reference: the file's bytes as they are


class Choice(NamedTuple):
    """The action that a policy took for one image, and what is needed to evaluate it later."""

    tables: str  # quantisation-table family; `original` to leave the image as it is
    quality: int  # chosen, 1 to 100
    policy_version: str  # who chose, e.g. `fixed-35` where no policy did
    propensity: float  # probability with which the policy took this action, (0, 1]
    expected_agreement: Optional[float]  # 0 to 1, predicted; None where the policy makes no promise
    verified_by: Optional[str] = (
        None  # backends that agreed before the choice was made, `name version` with `, ` between
    )


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
    engine: Optional[str] = None  # how: `native` by its coefficients, `pillow` by its pixels; None for kept images


class ImageFailure(NamedTuple):
    """An image that a stage could not process. Nothing else of its bundle is lost."""

    key: str  # of the image
    stage: str  # the transform's name
    reason: str  # a short word, e.g. `truncated`
    error: str  # one sentence for a person


class Label(NamedTuple):
    """One thing that a backend sees in an image."""

    name: str
    score: float  # 0..1, as the backend states it


class Score(NamedTuple):
    """What a backend's answers for an image and for its compressed form say about the choice."""

    key: str  # of the image
    choice: Choice  # the action that was taken
    features: Sequence[float]  # what the policy saw of the image; empty where it looked at nothing
    propensity: float  # probability with which the policy took the action, (0, 1]
    sampling_probability: float  # probability with which the image was scored, (0, 1]
    status: str  # `scored`; `no-reference`: no label for the reference; `skipped`: none for the compressed image
    reference_labels: Sequence[Label]  # what the backend sees in the reference, ranked, best first; scores 0 to 1
    compressed_labels: Sequence[Label]  # likewise, of the compressed image
    agreement: Optional[
        int
    ]  # 1 if the best reference label is among the best compressed ones, else 0; None unless scored
    strict_agreement: Optional[int]  # 1 if it is the best compressed one, else 0; None unless scored
    size_ratio: float  # compressed bytes / reference bytes
    reward: Optional[float]  # agreement - size ratio, at most 1; None unless scored
    backend: str  # its name
    backend_version: str  # what answers are cached by
    latency: Optional[float]  # seconds that the answer for the compressed image took; None from the cache
    cost: float  # USD for the calls of this row
    time: float  # of scoring, seconds since the epoch


class Usage(NamedTuple):
    """What scoring one image took, whatever came of it."""

    key: str  # of the image
    calls: int  # images sent to the backend, repeated ones too
    retries: int  # of those, the repeated ones
    cache_hits: int  # answers that the cache or another image of the bundle gave
    throttled: float  # seconds that calls waited for their turn
    cost: float  # USD, of the calls


class DriftEstimate(NamedTuple):
    """What the scores of a key say about the policy: whether it still is what it was when it was published."""

    key: str  # what was told apart, e.g. a camera; empty for all scores together
    start: float  # of the window, seconds since the epoch: of the first score, where there are no windows
    end: float  # of the window, seconds since the epoch
    n: int  # scores in the window
    total: int  # scores since the detector began
    agreement: Optional[float]  # mean over the images that the window's scores stand for, with its 95 % interval
    agreement_low: Optional[float]  # lower end of that interval, 0 to 1
    agreement_high: Optional[float]  # upper end, 0 to 1
    reward: Optional[float]  # mean of agreement - size ratio, likewise
    reward_low: Optional[float]  # lower end of its 95 % interval; None where there is but one score
    reward_high: Optional[float]  # upper end
    level: float  # agreement that has to be kept, 0 to 1
    baseline_reward: float  # reward that the policy was published with
    policy_version: str  # of the policy in service
    detector: str  # its name
    state: str  # `inference`, `estimate` or `retrain`, by how sure the detector is
    reason: str  # one sentence, for people
    sample_rate: float  # share of the images that should be scored from now on, 0 to 1
    evidence: Optional[float] = None  # of drift, 0 to 1 of what makes it `retrain`; None where the detector has none


class Retrained(NamedTuple):
    """What came of training a policy again."""

    status: str  # `published`, `kept` (the incumbent serves on), or `failed`
    reason: str  # one sentence, for people
    incumbent: str  # its policy version
    candidate: Optional[str]  # policy version; None where none was made
    scores: int  # learned from and judged with
    incumbent_agreement: Optional[float]  # 0 to 1, estimated off-policy on held-out scores
    candidate_agreement: Optional[float]  # likewise
    incumbent_size_ratio: Optional[float]  # compressed bytes / reference bytes, likewise
    candidate_size_ratio: Optional[float]  # likewise
