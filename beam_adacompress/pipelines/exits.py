"""With what the command ends: every exit status, in one place."""

from __future__ import annotations

import enum


class Exit(enum.IntEnum):
    """What a script can go by; `--help` and docs/command-line.md list the same."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    TOO_MANY_FAILURES = 3
    INTERRUPTED = 130  # 128 and the number of SIGINT, as shells have it

    @property
    def meaning(self) -> str:
        return _MEANINGS[self]


_MEANINGS = {
    Exit.DONE: "the job is done, even if some images failed",
    Exit.FAILED: "the job cannot run, or failed",
    Exit.USAGE: "wrong usage: an option is missing, unknown, out of range or does not go with another",
    Exit.TOO_MANY_FAILURES: "the job is done, but more images failed than --max-failures allows",
    Exit.INTERRUPTED: "interrupted; the same command goes on where it stopped",
}


def listed() -> list[str]:
    """A line for each status."""
    return [f"{status.value:<4} {status.meaning}" for status in Exit]
