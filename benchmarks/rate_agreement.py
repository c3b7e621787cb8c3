"""Bytes for an agreement: learned policies, verified choice and AdaCompress's agent beside the best fixed quality.

    python benchmarks/rate_agreement.py --images PHOTOGRAPHS... --models NETWORKS.tflite...

Every image is compressed with every action (five table families at eleven qualities, optimised progressive, 4:2:0) and
each network is asked what it sees, before and after; answers are kept in the cache, so that a run that was stopped goes
on. Agreement is within the top 5, the reference is the original. Networks are given from the smallest to the largest.

With `--augment N`, policies are trained on N copies of each training image, too: parts of it, saved again.
With `--no-align`, files have the steps of the tables, also where those of the photographs are nearly the same.

Test images are those that neither training nor calibration nor the search of the table families has seen. Families were
searched on halves of the ImageNet and the BSDS500 photographs, as `benchmarks/tables.py` halves them by a hash of the
name: of those the other halves are tested, of all other folders every image. Each fold of them is tested with a policy
that was trained on all other images. Policies are trained on all folders together, and tested on each.

Ratios are of mean bytes, to those that a fixed quality needs for the same agreement on the same images, in a bare loop
over Pillow with its defaults (standard tables, one plain scan, 4:2:0), between two qualities by linear interpolation.
The policy's own bytes at an agreement are read off its curve over the price of a byte in the same way. With 95 %
intervals from a paired bootstrap over images.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from judgements import FAMILIES, SAVING, Table, table
from numpy.typing import NDArray

from beam_adacompress.estimates import Interval
from beam_adacompress.pipelines import local
from beam_adacompress.policy import judging, learned
from beam_adacompress.policy.calibration import CONFIDENCE
from beam_adacompress.policy.dqn import DQNAgent
from beam_adacompress.policy.fit_agreement import Training
from beam_adacompress.policy.judging import Judged
from beam_adacompress.policy.learned import AgreementAgent
from beam_adacompress.policy.outcomes import Outcomes
from beam_adacompress.policy.training import together
from beam_adacompress.policy.verify import LADDER
from beam_adacompress.rates import bytes_needed, ratio_of_bytes
from beam_adacompress.sampling import draw

TARGETS = (0.97, 0.99)
ASKED_FOR = {"features": (0.80, 0.70), "lookahead": (0.70, 0.58)}  # ratios at TARGETS
SECTIONS = ("policies", "looks", "promise", "verified", "others", "dqn")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, nargs="+", required=True, help="folders of photographs")
    parser.add_argument("--models", type=Path, nargs="+", required=True, help="LiteRT classifiers, the smallest first")
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--augment", type=int, default=0, help="copies of each training image")
    parser.add_argument("--no-align", dest="align", action="store_false", help="files have the steps of the tables")
    parser.add_argument("--members", type=int, default=3, help="of each ensemble")
    parser.add_argument("--repetitions", type=int, default=40, help="of the promise, over random splits")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--rows", nargs="+", choices=ASKED_FOR, default=tuple(ASKED_FOR), help="of learned policies")
    options = parser.parse_args()
    local.quiet_logs()
    how = (options.folds, options.augment, options.align)
    tables = {model: table(options.images, model, None, *how) for model in options.models}
    sections = {
        "policies": lambda: policies(options, tables),
        "looks": lambda: looks(options, tables),
        "promise": lambda: promise(options, tables),
        "verified": lambda: verified(options, tables),
        "others": lambda: others(options, tables),
        "dqn": lambda: dqn(options, tables),
    }
    for name in options.only:
        sections[name]()


def taught(data: Table, chosen: NDArray[np.bool_], members: int, seed: int = 0) -> AgreementAgent:
    """An agent that learned from some images and their copies, a seventh of the images to know when to stop."""
    images = data.raw.take(np.flatnonzero(chosen))
    agent = AgreementAgent(len(FAMILIES), len(LADDER), how=Training(members=members, seed=seed))
    stop = np.array([draw(key, f"stop {seed}") < 1 / 7 for key in images.keys])
    train = images.take(np.flatnonzero(~stop))
    if data.copies is not None:
        train = together(train, data.copies.take(np.flatnonzero(np.isin(data.parents, train.keys))))
    agent.learn(train.logged(), images.take(np.flatnonzero(stop)).logged())
    agent.remember(images)
    return agent


def cross_fitted(data: Table, members: int) -> tuple[NDArray[np.float64], NDArray[np.float64], list[AgreementAgent]]:
    """Bytes and agreement of every image at every price, by the policy that has not seen its fold; and the policies."""
    prices = learned.prices(data.raw)
    sizes, agreement = (np.zeros((len(data.raw.keys), len(prices))) for _ in range(2))
    agents = []
    for fold in range(data.fold.max() + 1):
        agents.append(taught(data, data.fold != fold, members))
        mine = np.flatnonzero(data.fold == fold)
        test = data.written.take(mine)
        predicted = agents[-1].learned.predict(test.features.astype(np.float32))
        for index, price in enumerate(prices):
            came = judging.judged(test, learned.decide(predicted, test.bytes_in, price).action)
            sizes[mine, index], agreement[mine, index] = came.sizes, came.agreement
    return sizes, agreement, agents


def policies(options: argparse.Namespace, tables: Mapping[Path, Table]) -> None:
    print("\n== learned policies: bytes relative to the plain fixed quality of the same agreement")
    for index, (model, data) in enumerate(tables.items()):
        print(f"\n{model.stem}")
        rows = {"features": data} if "features" in options.rows else {}
        if index and "lookahead" in options.rows:
            stand_in = options.models[index - 1]
            share = stand_in.stat().st_size / model.stat().st_size
            print(f"  looking ahead with {stand_in.stem}, {share:.2f} of its size")
            rows["lookahead"] = table(options.images, model, stand_in, options.folds, options.augment, options.align)
        for name, seen in rows.items():
            tell(name, seen, options.members, ASKED_FOR[name])
        for where in (*sorted(set(data.folder)), "all"):
            print(f"  {'':<10} {where:<10} {orientation(data, where)}")


def tell(name: str, seen: Table, members: int, asked_for: Sequence[float]) -> None:
    sizes, agreement, _ = cross_fitted(seen, members)
    for where in (*sorted(set(seen.folder)), "all"):
        image = seen.held & ((seen.folder == where) | (where == "all"))
        cells = []
        for target, wanted in zip(TARGETS, asked_for):
            plain = seen.columns(image)
            ratio = ratio_of_bytes((sizes[image], plain[0]), (agreement[image], plain[1]), target)
            cells.append(f"at {target}: {said(ratio)} {verdict(ratio.mean, wanted)}")
        print(f"  {name:<10} {where:<10} {image.sum():>5} images  " + "   ".join(cells), flush=True)


def looks(options: argparse.Namespace, tables: Mapping[Path, Table]) -> None:
    print("\n== one look: features, and what a network says of the original alone")
    for index, model in enumerate(tables):
        print(f"\n{model.stem}")
        for name, network in (("stand-in", options.models[index - 1] if index else None), ("itself", model)):
            if network is not None:
                seen = table(options.images, model, network, options.folds, align=options.align, families=0)
                tell(name, seen, options.members, ASKED_FOR["lookahead"])


def orientation(data: Table, where: str) -> str:
    """What fixed settings and the oracle come to, relative to the same."""
    image = data.held & ((data.folder == where) | (where == "all"))
    sizes, agreement = data.columns(image)
    plain = [bytes_needed(sizes.mean(0), agreement.mean(0), target) for target in TARGETS]
    written = data.written.take(np.flatnonzero(image))
    fixed = [
        [
            bytes_needed(written.sizes[:, c].mean(0), written.agreement[:, c].mean(0), target) / bytes_of
            for target, bytes_of in zip(TARGETS, plain)
        ]
        for c in (slice(at * len(LADDER), (at + 1) * len(LADDER)) for at in range(len(FAMILIES)))
    ]
    best = np.nanmin(np.array(fixed), axis=0)
    oracle = judging.oracle("oracle", written).sizes.mean() / written.bytes_75.mean()
    return (
        f"fixed: standard tables, optimised progressive {fixed[0][0]:.2f}, {fixed[0][1]:.2f}; the best family "
        f"{best[0]:.2f}, {best[1]:.2f}; plain is {plain[0] / written.bytes_75.mean():.2f}, "
        f"{plain[1] / written.bytes_75.mean():.2f} of quality 75, the oracle {oracle:.2f}"
    )


def promise(options: argparse.Namespace, tables: Mapping[Path, Table]) -> None:
    print(f"\n== the promise: agreement on test images, over random splits of all images, confidence {CONFIDENCE}")
    for model, data in tables.items():
        for target in (0.95, 0.97):
            kept, told = 0, []
            for seed in range(options.repetitions):
                parts = np.array([draw(key, f"split {seed}") for key in data.raw.keys])
                agent = agent_of(data, parts < 0.5, seed)
                calibrate = data.written.take(np.flatnonzero((parts >= 0.5) & (parts < 0.75)))
                settings = learned.prices(data.raw)
                found = learned.calibration(agent.learned, calibrate, settings).promise(target)
                agent.price = None if found.setting is None else settings[found.setting]
                test = data.written.take(np.flatnonzero(parts >= 0.75))
                came = judging.judged(test, judging.acted(agent, test))
                kept += came.agreement.mean() >= target
                told.append((came.agreement.mean(), came.sizes.mean() / test.bytes_75.mean()))
            lowest, mean, enough = min(told)[0], np.mean(told, axis=0), kept >= 0.9 * options.repetitions
            print(
                f"{model.stem:<32} target {target}: kept in {kept} of {options.repetitions}, agreement {mean[0]:.3f} "
                f"(lowest {lowest:.3f}), {mean[1]:.2f} of quality 75 {'as asked for' if enough else 'TOO SELDOM'}",
                flush=True,
            )


_AGENTS: dict[tuple[int, int], AgreementAgent] = {}


def agent_of(data: Table, train: NDArray[np.bool_], seed: int) -> AgreementAgent:
    """The agent of a split; both targets share it."""
    name = (id(data.raw), seed)
    if name not in _AGENTS:
        _AGENTS[name] = taught(data, train, 1, seed)
    return _AGENTS[name]


def verified(options: argparse.Namespace, tables: Mapping[Path, Table]) -> None:
    print("\n== verified choice: the backend is asked about each image; calls count the reference's")
    chosen: dict[tuple[Path, str], NDArray[np.intp]] = {}
    for model, data in tables.items():
        for name, count in (("standard tables", 1), ("all families", len(FAMILIES))):
            width = count * len(LADDER)
            action, calls = np.zeros(len(data.raw.keys), np.intp), np.zeros(len(data.raw.keys))
            written = narrowed(data.written, width)
            for fold in range(data.fold.max() + 1):
                mine = np.flatnonzero(data.fold == fold)
                rest = narrowed(data.raw, width).take(np.flatnonzero(data.fold != fold))
                agent = by_size(rest, count)
                found = judging.searched(agent, written.take(mine), count)
                action[mine], calls[mine] = found.action, found.calls
            chosen[model, name] = action
            for where in (*sorted(set(data.folder)), "all"):
                image = np.flatnonzero(data.held & ((data.folder == where) | (where == "all")))
                seen = written.take(image)
                came = judging.judged(seen, action[image])
                against = came.sizes.mean() / judging.oracle("", seen).sizes.mean()
                asked = calls[image].mean()
                most = 4 if count == 1 else 8
                good = came.agreement.mean() >= 0.995 and against <= 1.10 and asked <= most
                print(
                    f"{model.stem:<32} {name:<16} {where:<10} agreement {came.agreement.mean():.3f}, {against:.3f} of "
                    f"the oracle's bytes, {came.sizes.mean() / seen.bytes_75.mean():.3f} of quality 75, "
                    f"{asked:.2f} calls an image {'as asked for' if good else 'MORE THAN ASKED FOR'}",
                    flush=True,
                )
    print("\nwhat another network, which took no part, says of them (all families)")
    for model in tables:
        for other, data in tables.items():
            came = judging.judged(data.written, chosen[model, "all families"])
            print(f"  verified by {model.stem:<32} seen by {other.stem:<32} agreement {came.agreement.mean():.3f}")


def narrowed(table: Outcomes, width: int) -> Outcomes:
    """The first actions alone."""
    return Outcomes(
        table.keys,
        table.features,
        table.sizes[:, :width],
        table.agreement[:, :width],
        table.strict[:, :width],
        table.bytes_in,
        table.bytes_75,
    )


def by_size(table: Outcomes, families: int) -> AgreementAgent:
    """An agent that predicts bytes, and remembers; verified choice needs no more, so the rest is trained briefly."""
    agent = AgreementAgent(families, len(LADDER), how=Training(members=1, epochs=1))
    agent.learn(table.logged(), table.logged())
    agent.remember(table)
    return agent


def others(options: argparse.Namespace, tables: Mapping[Path, Table]) -> None:
    print("\n== on what it was not trained on: two networks and two folders train, the third ones test, at 0.97")
    models, folders = list(tables), sorted(set(next(iter(tables.values())).folder))
    for test in models:
        for where in folders:
            mine = [tables[each] for each in models if each != test]
            both = judged_by_all([each.raw for each in mine])
            copies = [each.copies for each in mine if each.copies is not None]
            together_with = mine[0]._replace(raw=both, copies=judged_by_all(copies) if copies else None)
            image = mine[0].folder != where
            drawn = np.array([draw(key, "split 0") for key in both.keys])
            agent = taught(together_with, image & (drawn < 0.7), options.members)
            calibrate = judging.written(both.take(np.flatnonzero(image & (drawn >= 0.7))), SAVING)
            settings = learned.prices(both)
            found = learned.calibration(agent.learned, calibrate, settings).promise(0.97)
            agent.price = None if found.setting is None else settings[found.setting]
            data = tables[test]
            seen = data.held & (data.folder == where)
            at = data.written.take(np.flatnonzero(seen))
            came = judging.judged(at, judging.acted(agent, at))
            ratio = at_same_agreement(came, data.columns(seen))
            print(
                f"  {test.stem:<32} {where:<10} {seen.sum():>4} images: agreement {came.agreement.mean():.3f} for 0.97 "
                f"promised elsewhere, {said(ratio)} {verdict(ratio.mean, 0.90)}",
                flush=True,
            )


def judged_by_all(tables: Sequence[Outcomes]) -> Outcomes:
    """One table in which all networks have to agree."""
    first = tables[0]
    assert all(each.keys == first.keys for each in tables), "the networks answered for the same images"
    return Outcomes(
        first.keys,
        first.features,
        first.sizes,
        np.min([each.agreement for each in tables], axis=0),
        np.min([each.strict for each in tables], axis=0),
        first.bytes_in,
        first.bytes_75,
    )


def at_same_agreement(
    came: Judged, plain: tuple[NDArray[np.float64], NDArray[np.float64]], samples: int = 500
) -> Interval:
    """Bytes relative to those of the fixed quality that has the same agreement on the same images."""
    random = np.random.default_rng(0)

    def ratio(drawn: NDArray[np.int64]) -> float:
        needed = bytes_needed(plain[0][drawn].mean(0), plain[1][drawn].mean(0), float(came.agreement[drawn].mean()))
        return 0.0 if np.isnan(needed) else float(came.sizes[drawn].mean()) / needed

    images = len(came.sizes)
    drawn = np.sort([ratio(random.integers(0, images, images)) for _ in range(samples)])
    low, high = (float(drawn[round(share * (samples - 1))]) for share in (0.025, 0.975))
    return Interval(ratio(np.arange(images)), low, high)


def dqn(options: argparse.Namespace, tables: Mapping[Path, Table]) -> None:
    print("\n== AdaCompress's agent as published (ten qualities, standard tables), on the built-in features")
    for model in tables:
        data, fixed = table(options.images, model, None, 2, align=False, agent="dqn"), tables[model]
        raw, test = data.raw, data.fold == 1
        agent = DQNAgent()
        agent.learn_online(raw.take(np.flatnonzero(~test)), 1600)
        for where in (*sorted(set(data.folder)), "all"):
            image = np.flatnonzero(data.held & test & ((data.folder == where) | (where == "all")))
            seen = raw.take(image)
            came = judging.judged(seen, judging.acted(agent, seen))
            rows = np.array([fixed.raw.keys.index(key) for key in seen.keys])
            ratio = at_same_agreement(came, fixed.columns(rows))
            reward = float((came.agreement - came.sizes / seen.bytes_75).mean())
            print(
                f"  {model.stem:<32} {where:<10} {len(image):>4} images: agreement {came.agreement.mean():.3f}, "
                f"{came.sizes.mean() / seen.bytes_75.mean():.2f} of quality 75, reward {reward:.3f}, {said(ratio)} of "
                "the plain fixed quality",
                flush=True,
            )


def said(ratio: Interval) -> str:
    if not ratio.mean:
        return f"0 (to {ratio.high:.3f}: no fixed quality up to {LADDER[-1]} agrees as often)"
    return f"{ratio.mean:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"


def verdict(ratio: float, wanted: float) -> str:
    return f"at most {wanted:.2f}, as asked for" if ratio <= wanted else f"MORE than the {wanted:.2f} asked for"


if __name__ == "__main__":
    main()
