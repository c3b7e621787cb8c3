"""The recorded replies of `drift.py`: a street camera by day and by night, then photographs; and the original's log."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from drift_worlds import Outcome, interval, noticed, scores

from beam_adacompress import reward
from beam_adacompress.backends import BackendError, Query, backend
from beam_adacompress.drift import DETECTORS, Level, Rates, make
from beam_adacompress.drift.contract import RETRAIN, Seen
from beam_adacompress.records import Label

QUALITY = 15  # recorded for most images, and AdaCompress's most frequent choice
BEFORE, AFTER = 1000, 3000  # scores, around the change
_NIGHT = (19, 5)  # o'clock, from and to


def outcomes_of(path: Path) -> dict[str, Outcome]:
    """What the service said of each scene at the quality, through the backend `replay:`."""
    service = backend(f"replay:{path}")
    service.open()
    sizes: dict[tuple[str, str], dict[int, int]] = {}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        sizes.setdefault((row["dataset"], row["image"]), {})[row["quality"]] = row["bytes"]
    found: dict[str, list[tuple[int, float]]] = {"day": [], "night": [], "photographs": []}
    for (dataset, image), by_quality in sizes.items():
        if not {QUALITY, 75} <= set(by_quality):
            continue
        key = f"{dataset}/{image}"
        before, after = service.label([Query(b"", key, None), Query(b"", key, QUALITY)], 1.0)
        if isinstance(before, BackendError) or not before:
            continue
        after = () if isinstance(after, BackendError) else after
        agreement = reward.agreement(by_score(before), by_score(after))
        found[scene(dataset, image)].append((agreement, by_quality[QUALITY] / by_quality[75]))
    return {name: Outcome(*np.array(pairs, np.float64).T) for name, pairs in found.items()}


def by_score(labels: Sequence[Label]) -> list[Label]:
    """Best first: this service groups its labels by what they are about."""
    return sorted(labels, key=lambda label: -label.score)


def scene(dataset: str, image: str) -> str:
    """Of an image, by its name, which has the hour in it where it is of the street camera."""
    if dataset != "dnim":
        return "photographs"
    return "night" if not _NIGHT[1] <= int(image[9:11]) < _NIGHT[0] else "day"


def recorded(folder: Path, seeds: int) -> None:
    print(f"\n== recorded replies of a cloud service, quality {QUALITY} of 75; {seeds} streams")
    came = outcomes_of(folder / "baidu.jsonl")
    for name, each in came.items():
        print(
            f"  {name}: {len(each.agreement)} images, agreement {each.agreement.mean():.3f}, {each.ratio.mean():.2f} of"
        )
    level = Level(float(came["day"].agreement.mean()), 0.0)
    print(f"  level to keep: that of the day, {level.agreement:.3f}")
    for first, second in (("day", "night"), ("night", "photographs"), ("day", "photographs")):
        print(f"  {first}, then {second}")
        for name in DETECTORS:
            parts = [(came[first], BEFORE), (came[second], AFTER)]
            runs = [
                noticed(name, {}, level, scores(parts, np.random.default_rng((seed, 4))), BEFORE)
                for seed in range(seeds)
            ]
            delays = np.array([run.delay for run in runs])
            print(
                f"    {name:<12} noticed after {interval(delays[~np.isnan(delays)])}, "
                f"not within {AFTER}: {np.isnan(delays).sum()}; alarms in {BEFORE} scores before: "
                f"{interval([run.false for run in runs])}",
                flush=True,
            )
    original(folder / "running_log.jsonl", level)


def original(path: Path, level: Level) -> None:
    """The original's own run beside our detector on the same scores."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    estimated = [row for row in rows if row["status"] != 1]
    last = int(rows[-1]["step_count"])
    uploaded, reference = (sum(row[name] for row in rows) for name in ("upload_size", "ref_size"))
    below = [row for row in estimated if row["recent_accuracy"] is not None and row["recent_accuracy"] < 0.8]
    seen = [Seen(int(row["agent_accuracy"]), float(row["reward"]), 1.0) for row in estimated]
    print(
        f"\n  the original's log: {len(rows)} of {last} steps, {len(estimated)} of them scored "
        f"({len(estimated) / len(rows):.0%}), "
        f"uploads {uploaded / reference:.2f} of always quality 75, agreement of the scored ones "
        f"{np.mean([each.agreement for each in seen]):.3f}; its recent accuracy was below 0.8 at {len(below)} of them"
    )
    for name in ("e-detector", "adacompress"):
        print(f"    {name:<12} on the same scores: {said_of(name, level, seen)}")


def said_of(name: str, level: Level, stream: Sequence[Seen]) -> str:
    """After how many scores a detector says retrain."""
    detector = make(name, level, Rates(), {})
    for index, seen in enumerate(stream, 1):
        detector.update(seen)
        if (verdict := detector.verdict()).state == RETRAIN:
            return f"retrain after {index}: {verdict.reason}"
    return f"no alarm; it recommends to score {detector.verdict().sample_rate:.0%}"
