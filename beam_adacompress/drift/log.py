"""Drift as TensorBoard shows it: what each window or run says of a policy version, and what came of training again.

LOGS/drift/[KEY/]VERSION    agreement, reward, evidence and state, by the end of the window
LOGS/retrained              incumbent and candidate
"""

from __future__ import annotations

import re
import time
from typing import Optional

from beam_adacompress.drift.contract import ESTIMATE, INFERENCE, RETRAIN
from beam_adacompress.event_log import EventLog
from beam_adacompress.records import DriftEstimate, Retrained

STATES = {INFERENCE: 0, ESTIMATE: 1, RETRAIN: 2}  # as numbers, which TensorBoard needs

_OF_ESTIMATE = (
    "agreement",
    "agreement_low",
    "agreement_high",
    "reward",
    "reward_low",
    "reward_high",
    "level",
    "evidence",
    "sample_rate",
)
_OF_RETRAINED = ("incumbent_agreement", "candidate_agreement", "incumbent_size_ratio", "candidate_size_ratio")


class DriftLog:
    """Writes below a folder; a file for each policy version, as long as it is open.

    Args:
      logs: the folder; None: nothing is written.

    Raises:
      AdaCompressError: tensorboard is not installed, or the folder is in a bucket.
    """

    def __init__(self, logs: Optional[str]) -> None:
        EventLog(logs)
        self._root = None if logs is None else logs.rstrip("/")
        self._logs: dict[str, EventLog] = {}

    def estimate(self, row: DriftEstimate) -> None:
        """Writes what a window, or a run, says."""
        key = f"{_safe(row.key)}/" if row.key else ""
        values = {name: getattr(row, name) for name in _OF_ESTIMATE}
        values |= {"state": STATES[row.state], "scores": row.n}
        self._log(f"drift/{key}{_safe(row.policy_version)}").scalars(int(row.end), row.end, **values)

    def retrained(self, row: Retrained, moment: Optional[float] = None) -> None:
        """Writes what came of training again.

        Args:
          row: what came of it.
          moment: seconds since the epoch; None for now.
        """
        moment = time.time() if moment is None else moment
        values = {name: getattr(row, name) for name in _OF_RETRAINED}
        published = float(row.status == "published")
        self._log("retrained").scalars(int(moment), moment, published=published, scores=row.scores, **values)

    def close(self) -> None:
        """Ends the files."""
        for log in self._logs.values():
            log.close()
        self._logs = {}

    def _log(self, part: str) -> EventLog:
        if part not in self._logs:
            self._logs[part] = EventLog(None if self._root is None else f"{self._root}/{part}")
        return self._logs[part]


def _safe(name: str) -> str:
    """A name that is no path."""
    return re.sub(r"[^\w.-]|^\.+", "_", name)
