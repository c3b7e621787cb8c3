"""How far a local run is: a bar on a terminal, a line every few seconds elsewhere.

It watches the rows that the workers write beside their images, so it needs nothing from the runner.
"""

from __future__ import annotations

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


class Progress(threading.Thread):
    """Shows progress while its `with` block runs.

    Args:
      folder: of the run.
      attempt: identifier of this execution, in the names of the files that it writes.
      total: images of the input.
      terminal: whether to draw a bar.
    """

    def __init__(self, folder: RunFolder, attempt: str, total: int, terminal: bool) -> None:
        super().__init__(daemon=True, name="progress")
        self._folder = folder
        self._attempt = attempt
        self._terminal = terminal
        self._total = total
        self._ended = threading.Event()
        self._seen: set[str] = set()
        self._stats = summary.RunStats()
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
        if self._terminal:
            with tqdm(total=self._total, unit=" images", file=sys.stderr, leave=False, dynamic_ncols=True) as bar:
                # Looking costs a disk nothing, but a bucket a request.
                while not self._ended.wait(BAR_SECONDS if files.is_local(self._folder.output) else LINE_SECONDS):
                    self._look()
                    bar.n = min(self._total, self._stats.images)
                    bar.set_postfix_str(self._postfix(), refresh=False)
                    bar.refresh()
        else:
            while not self._ended.wait(LINE_SECONDS):
                self._look()
                print(self.line(), file=sys.stderr, flush=True)

    def line(self) -> str:
        """E.g. `1200 of 2112 images, 30.1 MB saved, 2 failed, 8 s left`."""
        done = self._stats.images
        left = ""
        if done:
            seconds = (time.monotonic() - self._began) * (self._total - done) / done
            left = f", {max(0, seconds):.0f} s left"
        return f"{done} of {self._total} images, {self._postfix()}{left}"

    def _postfix(self) -> str:
        saved = report.megabytes(self._stats.bytes_in - self._stats.bytes_out)
        return f"{saved} saved, {self._stats.failed} failed"

    def _look(self) -> None:
        try:
            for found in files.listing(self._folder.rows):
                if f"-{self._attempt}-" in found.path and found.path not in self._seen:
                    self._seen.add(found.path)
                    for row in read_rows(found.path):
                        self._stats.add(row)
        except (OSError, AdaCompressError) as error:  # the run ends just now, or the store does not answer
            _LOGGER.debug("no progress to show: %s", error)
