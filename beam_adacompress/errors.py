"""What can go wrong, as types that say whom it concerns: one image, or the whole job."""

from __future__ import annotations


class AdaCompressError(Exception):
    """The job cannot go on. The message is one sentence that says what to do."""


class ImageError(Exception):
    """One image cannot be processed; the job goes on and the image becomes a failure row.

    Attributes:
      reason: a short word from a closed set, fit for counting: `empty`, `not-an-image`, `truncated`,
        `corrupt`, `too-many-pixels`, `too-many-bytes`, `encode-failed`, `unreadable`, `bad-key`, `write-failed`,
        `changed`, `not-a-jpeg`, `unsupported-jpeg`, `high-bit-depth`, `bad-message`; of shards and their records
        `corrupt-shard`, `unsupported-shard`, `no-such-field`, `no-image`.
      message: one sentence for a person.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str]]:
        return type(self), (self.reason, self.message)
