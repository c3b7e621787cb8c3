"""How far a local run is: a bar on a terminal, a line every few seconds elsewhere.

It watches the files that the workers write beside their results, so it needs nothing from the runner.
"""

from __future__ import annotations

import abc
import logging
import sys
import threading
import time
from types import TracebackType
from typing import Optional

from tqdm import tqdm

from beam_adacompress import report, summary
from beam_adacompress.errors import AdaCompressError
from beam_adacompress.transforms import files
from beam_adacompress.transforms.runs import RunFolder, read_rows

_LOGGER = logging.getLogger(__name__)

BAR_SECONDS = 0.5
LINE_SECONDS = 5.0


class Watched(abc.ABC):
    """A run in progress.

    Attributes:
      total: images of the run; None where that is not known.
      done: images so far.
    """

    total: Optional[int] = None
    done: int = 0

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    @abc.abstractmethod
    def look(self) -> None:
        """Reads what is new."""

    @abc.abstractmethod
    def so_far(self) -> str:
        """What the run has come to, in words."""


class Compressing(Watched):
    """A compress run.

    Args:
      folder: of the run.
      attempt: identifier of this execution, in the names of the files that it writes.
      total: images of the input; None where that is not known.
    """

    def __init__(self, folder: RunFolder, attempt: str, total: Optional[int]) -> None:
        super().__init__(folder)
        self.total = total
        self._attempt = attempt
        self._seen: set[str] = set()
        self._stats = summary.RunStats()

    def look(self) -> None:
        for found in files.listing(self.folder.rows):
            if found.path not in self._seen and found.path.endswith(".jsonl") and f"-{self._attempt}-" in found.path:
                self._seen.add(found.path)
                for row in read_rows(found.path):
                    self._stats.add(row)
        self.done = self._stats.images

    def so_far(self) -> str:
        saved = report.megabytes(self._stats.bytes_in - self._stats.bytes_out)
        return f"{saved} saved, {self._stats.failed} failed"


class Scoring(Watched):
    """A run whose workers append a line for each image that a backend was asked about, see score_sinks.Tick."""

    def __init__(self, folder: RunFolder, total: Optional[int] = None) -> None:
        super().__init__(folder)
        self.total = total
        self._read: dict[str, int] = {}  # bytes of each file
        self._calls = 0
        self._cost = 0.0

    def look(self) -> None:
        for found in files.listing(self.folder.rows):
            start = self._read.get(found.path, 0)
            new = files.read(found.path)[start:]
            new = new[: new.rfind(b"\n") + 1]  # the last line may not be whole yet
            self._read[found.path] = start + len(new)
            for line in new.decode().splitlines():
                calls, cost = line.split()
                self.done += 1
                self._calls += int(calls)
                self._cost += float(cost)

    def so_far(self) -> str:
        return f"{self._calls} calls, {report.dollars(self._cost)}"


class Progress(threading.Thread):
    """Shows progress while its `with` block runs.

    Args:
      watched: what to show.
      terminal: whether to draw a bar.
    """

    def __init__(self, watched: Watched, terminal: bool) -> None:
        super().__init__(daemon=True, name="progress")
        self._watched = watched
        self._terminal = terminal
        self._ended = threading.Event()
        self._began = time.monotonic()

    def __enter__(self) -> Progress:
        self.start()
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self._ended.set()
        self.join()

    def run(self) -> None:
        watched = self._watched
        if self._terminal:
            with tqdm(total=watched.total, unit=" images", file=sys.stderr, leave=False, dynamic_ncols=True) as bar:
                # Looking costs a disk nothing, but a bucket a request.
                local = files.is_local(watched.folder.output)
                while not self._ended.wait(BAR_SECONDS if local else LINE_SECONDS):
                    self._look()
                    bar.n = watched.done if watched.total is None else min(watched.total, watched.done)
                    bar.set_postfix_str(watched.so_far(), refresh=False)
                    bar.refresh()
        else:
            while not self._ended.wait(LINE_SECONDS):
                self._look()
                print(self.line(), file=sys.stderr, flush=True)

    def line(self) -> str:
        """E.g. `1200 of 2112 images, 30.1 MB saved, 2 failed, 8 s left`."""
        done, total = self._watched.done, self._watched.total
        if total is None:
            return f"{done} images, {self._watched.so_far()}"
        left = ""
        if done:
            seconds = (time.monotonic() - self._began) * (total - done) / done
            left = f", {max(0, seconds):.0f} s left"
        return f"{done} of {total} images, {self._watched.so_far()}{left}"

    def _look(self) -> None:
        try:
            self._watched.look()
        except (OSError, AdaCompressError) as error:  # the run ends just now, or the store does not answer
            _LOGGER.debug("no progress to show: %s", error)
