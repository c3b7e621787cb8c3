"""What a backend is: the one small contract between everything here and whatever answers "what is in this image?"."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar, NamedTuple, Optional, Union

from beam_adacompress.artefacts import Read as Read
from beam_adacompress.artefacts import read_local as read_local
from beam_adacompress.records import Label

# Reasons, fit for counting. The first four are worth another try, unless the backend knows better.
THROTTLED = "throttled"  # too many calls at once
UNAVAILABLE = "unavailable"  # the backend is down or the connection broke
TIMEOUT = "timeout"
BAD_ANSWER = "bad-answer"  # the answer is malformed, incomplete or impossible
BAD_IMAGE = "bad-image"  # the backend cannot read this image
TOO_LARGE = "too-large-for-backend"
REFUSED = "refused"  # the request is not accepted for another reason
NOT_RECORDED = "not-recorded"  # replay: the file has no reply for this image and quality
# The next three concern every further call as well.
QUOTA = "quota"  # used up for longer than a job waits: the day's, the month's, the account's
CREDENTIALS = "credentials"  # missing, wrong or without permission
BUDGET = "budget-spent"  # max_calls or max_cost: the call was not made
DEFECT = "backend-defect"  # the backend's code raised something that is no BackendError

FINAL = {QUOTA, CREDENTIALS, BUDGET}
_WORTH_ANOTHER_TRY = {THROTTLED, UNAVAILABLE, TIMEOUT, BAD_ANSWER}


class BackendError(Exception):
    """Why there is no answer for one image, or, raised by `Backend.label`, for none of a batch.

    Attributes:
      reason: one of the words above.
      message: one sentence for a person, without secrets.
      retryable: whether the same call may succeed later.
      retry_after: seconds that the backend asks to wait, where it does.
    """

    def __init__(
        self, reason: str, message: str, retryable: Optional[bool] = None, retry_after: Optional[float] = None
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.retryable = reason in _WORTH_ANOTHER_TRY if retryable is None else retryable
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[type[BackendError], tuple[str, str, bool, Optional[float]]]:
        return type(self), (self.reason, self.message, self.retryable, self.retry_after)


class Query(NamedTuple):
    """One image to label."""

    data: bytes  # an image file
    key: str = ""  # what the caller calls it; for replay and record, others do not look at it
    quality: Optional[int] = None  # of the JPEG, 1..100; None for the reference


Labels = tuple[Label, ...]  # ranked as the backend ranks them, best first; empty where it sees nothing
Answer = Union[Labels, BackendError]


@dataclasses.dataclass(frozen=True)
class Terms:
    """What a backend states about itself.

    Args:
      name: as in its URI.
      version: of the model or the API, and of the settings that change its answers. Replies are cached under
        (bytes, name, version), so it has to change whenever the same bytes would be answered otherwise by design.
      max_batch: images in one call of `label`.
      max_bytes: of one image file; None where there is no limit.
      max_batch_bytes: of the image files of one batch together; None where there is no limit.
      max_pixels: width x height of one image; None where there is no limit.
      price: USD for each image sent.
      is_local: whether it runs in the worker: then nothing is paid, and there are no limits of rate to keep.
      cacheable: whether the answer depends on nothing but the bytes.
    """

    name: str
    version: str
    max_batch: int = 1
    max_bytes: Optional[int] = None
    max_batch_bytes: Optional[int] = None
    max_pixels: Optional[int] = None
    price: float = 0.0
    is_local: bool = False
    cacheable: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.price < math.inf:
            raise ValueError(f"the price of {self.name} must be a number of USD from 0, got {self.price}")

    def too_many_pixels(self, width: int, height: int) -> Optional[BackendError]:
        """The error for an image that is too large to be sent; None for others."""
        if self.max_pixels is None or width * height <= self.max_pixels:
            return None
        return BackendError(
            TOO_LARGE,
            f"the image has {width * height} pixels, and {self.name} takes at most {self.max_pixels}; scale it down",
        )

    def most_calls(self, max_calls: Optional[int], max_cost: Optional[float]) -> Optional[int]:
        """How many calls two limits allow together; None for as many as you like.

        Args:
          max_calls: None for no limit.
          max_cost: USD; None for no limit.
        """
        affordable = [] if max_cost is None or not self.price else [math.floor(max_cost / self.price + 1e-9)]
        return min([*affordable, *([] if max_calls is None else [max_calls])], default=None)


@dataclasses.dataclass
class Backend(abc.ABC):
    """Answers "what is in this image?".

    A backend is a dataclass: its fields are the parameters of its URI, `NAME:PATH?field=value&field=value`. It is
    pickled into the pipeline before `open`, so it holds no client, no model and no secret until then; afterwards
    `label` may be called from several threads at once, of remote backends (`concurrent = False` forbids that).
    """

    takes_path: ClassVar[bool] = False  # whether the URI has a PATH; then the first field is it
    concurrent: ClassVar[bool] = True

    @property
    @abc.abstractmethod
    def terms(self) -> Terms:
        """What it states about itself."""

    @property
    def terms_need_open(self) -> bool:
        """Whether `terms` may be asked for only after `open`, since a model has to be read for them."""
        return False

    def open(self, read: Read = read_local) -> None:  # noqa: B027 (nothing to open is common)
        """Makes clients, reads models; called once in each worker process, before `label`.

        Args:
          read: gives the bytes of a file at any path that the job understands, e.g. `gs://...`.

        Raises:
          AdaCompressError: a package, a credential or a file is missing; the message says which and what to do.
        """

    def heard(self, image: Query, answer: Answer) -> None:  # noqa: B027 (most need not know)
        """Told of an answer without a call: from the cache, or given for equal bytes."""

    @abc.abstractmethod
    def label(self, images: Sequence[Query], timeout: float) -> Sequence[Answer]:
        """Labels at most `terms.max_batch` images with one call.

        Args:
          images: to label.
          timeout: seconds that the call may take.

        Returns:
          For each image its labels, or a BackendError.

        Raises:
          BackendError: the call failed as a whole.
        """
