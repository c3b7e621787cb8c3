"""Drift on real images and real networks: how soon it is noticed, what it costs, and what retraining makes of it.

    python benchmarks/drift.py --images FOLDER --models NETWORKS.tflite... --recorded REPLIES

FOLDER holds `imagenet` and `clothing`; every image is compressed with every action, as in `rate_agreement.py`, and the
answers are kept in the cache. A policy is trained on photographs of `imagenet` alone. Then the scenery changes:

    clothing   photographs of clothes, and back to those of `imagenet`
    night      the photographs of `imagenet` darkened (gamma, gain and noise), from one image to the next
    dusk       the same in three steps

Images are kept apart by their names: those that trained and calibrated the policy, those that streams are drawn of
(with replacement), and those aside, on which the agreement of each policy is measured: no stream ever shows them.

Detectors see one score after the other. A run is a stream of its own; means over runs have 95 % intervals (Student's
t). The bill of a run is all that is uploaded, compressed images and sampled references, relative to sending every image
at quality 75; calls are those for references, per image: the compressed image would be sent in any case.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from drift_loop import whole_loop
from drift_recorded import recorded
from drift_worlds import NIGHTS, Outcome, World, darkened, interval, noticed, outcome, scores, world

from beam_adacompress.drift import DETECTORS, Level
from beam_adacompress.pipelines import local

BEFORE, AFTER = 1000, 3000  # scores, around the change
LONGEST = 20_000  # scores, to the first false alarm
LEVEL = 0.97
SECTIONS = ("detection", "equal", "loop", "recorded", "stationary")


def changes(found: World) -> Iterator[tuple[str, Outcome, list[tuple[Outcome, int]]]]:
    """What follows the photographs of `imagenet`: name, what is there at the end, and the parts of it."""
    came = {name: outcome(found.policy, scene.stream) for name, scene in found.scenes.items()}
    yield "clothing", came["clothing"], [(came["clothing"], AFTER)]
    night = came[str(NIGHTS[-1])]
    yield "night", night, [(night, AFTER)]
    steps = [(came[str(each)], 200) for each in NIGHTS[:-1]]
    yield "dusk", night, [*steps, (night, AFTER - 200 * len(steps))]


def detection(worlds: Sequence[World], seeds: int) -> None:
    print(f"\n== how soon a change is noticed: scores, over {seeds} streams, {BEFORE} scores before the change")
    for found in worlds:
        level = Level(found.policy.promise.target, 0.0)
        before = outcome(found.policy, found.scenes["imagenet"].stream)
        print(f"\n{found.network}: level {level.agreement:g}, agreement before {before.agreement.mean():.3f}")
        for change, end, parts in changes(found):
            below = end.agreement.mean() < level.agreement
            print(
                f"  {change}: agreement {end.agreement.mean():.3f}" + ("" if below else ": no drift, silence is right")
            )
            for name in DETECTORS:
                runs = [
                    noticed(name, {}, level, scores([(before, BEFORE), *parts], np.random.default_rng(seed)), BEFORE)
                    for seed in range(seeds)
                ]
                delays = np.array([run.delay for run in runs])
                missed = int(np.isnan(delays).sum())
                print(
                    f"    {name:<12} noticed after {interval(delays[~np.isnan(delays)])}, "
                    f"not within {AFTER}: {missed}; "
                    f"false alarms per 1,000 scores before: {interval([1000 * run.false / BEFORE for run in runs])}",
                    flush=True,
                )


def equally_often_wrong(worlds: Sequence[World], streams: int) -> None:
    print("\n== delays at the published rule's own false-alarm rate: our detector made as eager, see false_alarms")
    for found in worlds:
        level = Level(found.policy.promise.target, 0.0)
        before = outcome(found.policy, found.scenes["imagenet"].stream)
        published = [first_alarm("adacompress", {}, level, [(before, LONGEST)], seed) for seed in range(streams)]
        between = float(np.mean([LONGEST if np.isnan(each) else each for each in published]))
        eager = as_eager(level, before, between, streams)
        print(f"\n{found.network}: a false alarm every {between:.0f} scores; ours with false_alarms={eager:.0f}")
        for change, end, parts in changes(found):
            if end.agreement.mean() >= level.agreement:
                continue
            ours, theirs = (
                np.array([first_alarm(name, options, level, parts, seed) for seed in range(streams)])
                for name, options in (("e-detector", {"false_alarms": eager}), ("adacompress", {}))
            )
            ours, theirs = np.nan_to_num(ours, nan=AFTER), np.nan_to_num(theirs, nan=AFTER)
            share = ours.mean() / theirs.mean()
            print(
                f"  {change}, to {end.agreement.mean():.3f}: ours {interval(ours)}, theirs {interval(theirs)}: "
                f"{share:.2f} of theirs, {'as asked for' if share <= 0.5 else 'MORE than the 0.5 asked for'}",
                flush=True,
            )


def first_alarm(
    name: str, options: Mapping[str, float], level: Level, parts: Sequence[tuple[Outcome, int]], seed: int
) -> float:
    """Scores to the first alarm; not a number where there is none."""
    return noticed(name, options, level, scores(parts, np.random.default_rng((seed, 1))), 0).delay


def as_eager(level: Level, before: Outcome, between: float, streams: int) -> float:
    """The `false_alarms` with which our detector is wrong as often as once in so many scores: by halving, in logs."""
    low, high = np.log(100), np.log(100_000)
    for _ in range(8):
        options = {"false_alarms": float(np.exp((low + high) / 2))}
        runs = [first_alarm("e-detector", options, level, [(before, LONGEST)], seed) for seed in range(streams)]
        found = np.mean([LONGEST if np.isnan(each) else each for each in runs])
        low, high = ((low + high) / 2, high) if found < between else (low, (low + high) / 2)
    return float(np.exp((low + high) / 2))


def stationary(worlds: Sequence[World], seeds: int, length: int) -> None:
    print(f"\n== false alarms where nothing changes: streams of {length:,} scores, {seeds} seeds")
    same = [("made up", Outcome(np.repeat([0.0, 1.0], [30, 970]), np.full(1000, 0.3)))]
    same += [(each.network, outcome(each.policy, each.scenes["imagenet"].stream)) for each in worlds]
    for title, kind in same:
        level = Level(min(LEVEL, float(kind.agreement.mean())), 0.0)  # below it, alarms would not be false
        print(f"  {title}: agreement {kind.agreement.mean():.3f}, level {level.agreement:.3f}")
        for name in DETECTORS:
            runs = [
                noticed(name, {}, level, scores([(kind, length)], np.random.default_rng((seed, 2))), length).false
                for seed in range(seeds)
            ]
            promised = ""
            if name == "e-detector":
                kept = np.mean(runs) <= length / 10_000
                promised = f"; at most {length // 10_000} promised: {'kept' if kept else 'NOT KEPT'}"
            print(f"    {name:<12} {interval(runs)} false alarms a stream, {max(runs)} at most{promised}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder with imagenet and clothing")
    parser.add_argument("--models", type=Path, nargs="+", required=True, help="LiteRT classifiers")
    parser.add_argument("--recorded", type=Path, required=True, help="folder with baidu.jsonl and running_log.jsonl")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--confidence", type=float, default=0.5, help="of the promise of the policy that drifts")
    parser.add_argument("--phase", type=int, default=4000, help="images of each part of the loop's streams")
    parser.add_argument("--detectors", nargs="+", choices=DETECTORS, default=tuple(DETECTORS), help="of the loop")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    options = parser.parse_args()
    local.quiet_logs()
    with tempfile.TemporaryDirectory() as scratch:
        nights = Path(scratch)
        for level in NIGHTS:
            (nights / f"{level}").mkdir()
            for path in (options.images / "imagenet").iterdir():
                (nights / f"{level}" / path.name).write_bytes(darkened(path.read_bytes(), level, path.name))
        worlds = [world(options.images, nights, model, options.confidence) for model in options.models]
    sections = {
        "detection": lambda: detection(worlds, options.seeds),
        "equal": lambda: equally_often_wrong(worlds, 10 * options.seeds),
        "loop": lambda: whole_loop(worlds, options.seeds, options.phase, options.detectors),
        "recorded": lambda: recorded(options.recorded, options.seeds),
        "stationary": lambda: stationary(worlds, options.seeds, 100_000),
    }
    for name in options.only:
        sections[name]()


if __name__ == "__main__":
    main()
