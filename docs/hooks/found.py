"""What the benchmarks found, as tables: read from benchmarks/results, so that no number is copied by hand."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

RESULTS = Path(__file__).parent.parent.parent / "benchmarks" / "results"

NETWORKS = {
    "mobilenet_v1_0.25_128_quant": "MobileNet v1 0.25, 128 pixels",
    "mobilenet_v1_0.75_192_quant": "MobileNet v1 0.75, 192 pixels",
    "mobilenet_v2_1.0_224_quant": "MobileNet v2, 224 pixels",
}
SETS = {"all": "all three", "imagenet": "ImageNet", "bsds500": "BSDS500", "clothing": "clothing"}

_NUMBER = r"([\d.]+)"
_GOAL = rf"(at most|MORE than the) {_NUMBER}"
_INTERVAL = rf"{_NUMBER} \({_NUMBER} to {_NUMBER}\)"
_POLICY = re.compile(
    rf"^  (features|lookahead) +(\w+) +(\d+) images +at 0\.97: {_INTERVAL} (at most|MORE than the) {_NUMBER}.*?"
    rf"at 0\.99: {_INTERVAL} (at most|MORE than the) {_NUMBER}"
)
_FIXED = re.compile(
    rf"^ +(\w+) +fixed: standard tables, optimised progressive {_NUMBER}, {_NUMBER}; the best family {_NUMBER}, "
    rf"{_NUMBER}; plain is {_NUMBER}, {_NUMBER} of quality 75, the oracle {_NUMBER}"
)


def read(name: str) -> list[str]:
    """The lines of a benchmark's output."""
    return (RESULTS / name).read_text().splitlines()


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table in Markdown."""
    escaped = [[str(cell).replace("|", r"\|") for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |".replace("|  |", "| |") for row in [list(head), ["---"] * len(head), *escaped]]


def by_network(result: str, section: str) -> Iterator[tuple[str, str]]:
    """The lines of a section of a result, each with the network below whose heading it stands."""
    network, inside = "", False
    for line in read(result):
        if line.startswith("== "):
            inside = line.startswith(f"== {section}")
        elif inside and (name := line.partition(":")[0]) in NETWORKS:
            network = name
        elif inside and line and not line.startswith("$"):
            yield network, line


def rounded(number: str) -> str:
    """To two decimals, halves up, as a reader of the result would round; no float comes between."""
    return str(Decimal(number).quantize(Decimal("0.01"), ROUND_HALF_UP))


def interval(mean: str, low: str, high: str) -> str:
    """A mean and its interval."""
    return f"{rounded(mean)} ({rounded(low)} to {rounded(high)})"


class Ratio:
    """Bytes relative to those of the fixed quality with the same agreement.

    Args:
      texts: mean, low, high, what the result says of the goal, and the goal.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.mean, self.low, self.high = texts[:3]
        self.missed = texts[3].startswith("MORE")
        self.goal = texts[4]

    def __str__(self) -> str:
        missed = f", **missed** {self.goal}" if self.missed else ""
        return f"{interval(self.mean, self.low, self.high)}{missed}"


def policies(name: str = "rate_agreement.txt") -> dict[tuple[str, str, str], tuple[Ratio, Ratio]]:
    """Ratios at 0.97 and 0.99 by network, set of images, and whether the policy looks ahead."""
    found = {}
    for network, line in by_network(name, "learned policies"):
        if match := _POLICY.match(line):
            kind, images, *texts = match.groups()
            found[network, images, kind] = Ratio(texts[1:6]), Ratio(texts[6:])
    assert found, f"{name} has no policies"
    return found


def _policy_rows(sets: Iterable[str], name: str = "rate_agreement.txt") -> list[list[str]]:
    found = policies(name)
    rows = []
    for network in NETWORKS:
        for images in sets:
            cells = []
            for kind in ("features", "lookahead"):
                cells += list(map(str, found.get((network, images, kind), ("", ""))))
            rows.append([NETWORKS[network], SETS[images], *cells])
    return rows


_HEAD = ["network", "photographs", "features alone, at 0.97", "at 0.99", "looking ahead, at 0.97", "at 0.99"]


def all_together() -> str:
    """The policies on all photographs together, without the column that says so."""
    rows = [[network, *cells] for network, _, *cells in _policy_rows(["all"])]
    return "\n".join(table([_HEAD[0], *_HEAD[2:]], rows))


def single_sets() -> str:
    """The policies on each set."""
    return "\n".join(table(_HEAD, _policy_rows(["imagenet", "bsds500", "clothing"])))


def with_copies() -> str:
    """Policies from features alone, without and with a copy of each image to train on."""
    without, with_them = (_policy_rows(["all"], f"rate_agreement_{name}.txt") for name in ("unaligned", "augment"))
    rows = [[one[0], *one[2:4], *other[2:4]] for one, other in zip(without, with_them, strict=True)]
    return "\n".join(table([_HEAD[0], "without copies, at 0.97", "at 0.99", "with copies, at 0.97", "at 0.99"], rows))


def without_policy() -> str:
    """What a fixed setting comes to."""
    rows = []
    for network, line in by_network("rate_agreement.txt", "learned policies"):
        match = _FIXED.match(line)
        if match and match[1] == "all":
            standard, best, plain, oracle = match.groups()[1:3], match.groups()[3:5], match.groups()[5:7], match[8]
            rows.append([NETWORKS[network], *map(", ".join, (plain, standard, best)), oracle])
    head = [
        "network",
        "plain, standard tables: of quality 75",
        "optimised progressive: of plain",
        "best family: of plain",
    ]
    return "\n".join(table([*head, "oracle: of quality 75"], rows))


def alignment() -> str:
    """What aligned steps are worth on photographs that were saved coarsely."""
    form = re.compile(
        rf"^    (\S+) +at 0\.97: {_INTERVAL} +at 0\.99: {_INTERVAL} +at quality 90: {_NUMBER} of the bytes, agreement "
        rf"{_NUMBER} and {_NUMBER}$"
    )
    rows, network, coarse = [], "", False
    for line in read("alignment.txt"):
        network = line if line in NETWORKS else network
        if line.startswith("  saved with"):
            coarse = "coarse" in line
        elif coarse and (match := form.match(line)):
            family, *texts = match.groups()
            rows.append([NETWORKS[network], f"`{family}`", interval(*texts[:3]), interval(*texts[3:6]), *texts[6:]])
    assert rows, "no alignment"
    head = ["network", "tables", "at 0.97", "at 0.99", "at quality 90", "agreement there", "without"]
    return "\n".join(table(head, rows))


def looks() -> str:
    """What one look at the original is worth, of a stand-in and of the network itself."""
    form = re.compile(rf"^  (stand-in|itself) +all +\d+ images +at 0\.97: {_INTERVAL}.*?at 0\.99: {_INTERVAL}")
    found: dict[str, dict[str, list[str]]] = {network: {} for network in NETWORKS}
    for network, line in by_network("rate_agreement.txt", "one look"):
        if match := form.match(line):
            who, *texts = match.groups()
            found[network][who] = [interval(*texts[:3]), interval(*texts[3:])]
    assert all(found.values()), "not every network was looked through"
    rows = [
        [NETWORKS[network], *(cell for who in ("stand-in", "itself") for cell in cells.get(who, ["", ""]))]
        for network, cells in found.items()
    ]
    head = ["network", "a stand-in's, at 0.97", "at 0.99", "its own, at 0.97", "at 0.99"]
    return "\n".join(table(head, rows))


def promise() -> str:
    """How often a promise was kept."""
    form = re.compile(
        rf"^(\w\S+) +target {_NUMBER}: kept in (\d+) of (\d+), agreement {_NUMBER} \(lowest {_NUMBER}\), "
        rf"{_NUMBER} of.*?(TOO SELDOM)?$"
    )
    rows = []
    for _, line in by_network("rate_agreement.txt", "the promise"):
        if match := form.match(line):
            network, target, kept, splits, mean, lowest, size, seldom = match.groups()
            rows.append(
                [
                    NETWORKS[network],
                    target,
                    f"{kept} of {splits}" + (", **too seldom**" if seldom else ""),
                    mean,
                    lowest,
                    size,
                ]
            )
    assert rows, "no promises"
    head = ["network", "promised", "kept in", "mean agreement", "lowest", "bytes, of quality 75"]
    return "\n".join(table(head, rows))


def verified() -> str:
    """Verified choice."""
    form = re.compile(
        rf"^(\w\S+) +(standard tables|all families) +all +agreement {_NUMBER}, {_NUMBER} of the oracle's bytes, "
        rf"{_NUMBER} of quality 75, {_NUMBER} calls an image"
    )
    matches = [match for _, line in by_network("rate_agreement.txt", "verified choice") if (match := form.match(line))]
    rows = [[NETWORKS[match[1]], *match.groups()[1:]] for match in matches]
    assert rows, "no verified choices"
    head = ["network", "tables", "agreement", "bytes, of the oracle's", "of quality 75", "calls an image"]
    return "\n".join(table(head, rows))


def outsiders() -> str:
    """What a network that had no say agrees with."""
    form = re.compile(rf"^  verified by (\S+) +seen by (\S+) +agreement {_NUMBER}")
    seen: dict[str, dict[str, str]] = {}
    for _, line in by_network("rate_agreement.txt", "verified choice"):
        if match := form.match(line):
            seen.setdefault(match[1], {})[match[2]] = match[3]
    assert seen, "no outsiders"
    rows = [[NETWORKS[by], *(seen[by][other] for other in NETWORKS)] for by in NETWORKS]
    return "\n".join(table(["verified by", *(f"seen by {name}" for name in NETWORKS.values())], rows))


def elsewhere() -> str:
    """Policies on networks and photographs that they were not trained on."""
    form = re.compile(
        rf"^  (\w\S+) +(\w+) +(\d+) images: agreement {_NUMBER} for 0.97 promised elsewhere, (.*?) {_GOAL}"
    )
    rows = []
    for _, line in by_network("rate_agreement.txt", "on what it was not trained on"):
        if match := form.match(line):
            network, images, count, agreement, ratio, goal, most = match.groups()
            missed = f", **missed** {most}" if goal.startswith("MORE") else ""
            rows.append([NETWORKS[network], f"{SETS[images]}, {count}", agreement, ratio + missed])
    assert rows, "nothing elsewhere"
    return "\n".join(table(["network", "photographs", "agreement", "bytes, of the fixed quality's"], rows))


_AGENT = re.compile(
    rf"^  (\w\S+) +all +(\d+) images: agreement {_NUMBER}, {_NUMBER} of quality 75, reward {_NUMBER}, {_INTERVAL}"
)


def _agents() -> list[tuple[str, ...]]:
    lines = [line for _, line in by_network("rate_agreement.txt", "AdaCompress's agent")]
    matches = [match.groups() for line in lines if (match := _AGENT.match(line))]
    assert matches, "no agents"
    return matches


def agents() -> dict[str, Ratio]:
    """Ratios of AdaCompress's agent by network, at the agreement that it comes to."""
    return {network: Ratio((*ratio, "at most", "")) for network, _, _, _, _, *ratio in _agents()}


def agreements_of_agents() -> list[float]:
    """Those agreements, the lowest first."""
    return sorted(float(agreement) for _, _, agreement, *_ in _agents())


def published_agent() -> str:
    """AdaCompress's agent as published."""
    found = agents()
    rows = [[NETWORKS[network], *texts[:4], str(found[network])] for network, *texts in _agents()]
    head = ["network", "images", "agreement", "bytes, of quality 75", "reward", "bytes, of the fixed quality's"]
    return "\n".join(table(head, rows))


_OBSERVED = re.compile(r"^    (e-detector|adacompress|page-hinkley|adwin) +(.*)$")


def loop() -> str:
    """The whole loop."""
    form = re.compile(
        r"alarm after (\S+)(?: \(.*?\))? scores in (\d+ of \d+); false ones before: (\S+); agreement aside (\S+), then "
        r"([\d.]+), at the end ([\d.]+).*?; at the target after (\S+)(?: \(.*?\))? scores in (\d+); bytes ([\d.]+).*?; "
        r"calls ([\d.]+)"
    )
    rows, change = [], ""
    for network, line in by_network("drift.txt", "the whole loop"):
        if re.match(r"^  \w+$", line):
            change = line.strip()
        elif (match := _OBSERVED.match(line)) and match[1] in ("e-detector", "adacompress"):
            content = form.match(match[2])
            assert content, line
            alarm, alarms, false, _, fallen, end, target, reached, size, calls = content.groups()
            noticed = f"{_whole(alarm)} scores, {alarms}" if alarm != "never" else "never"
            again = f"{_whole(target)} scores, {reached} of 10" if target != "never" else "never"
            rows.append(
                [NETWORKS[network], change, match[1], fallen, noticed, false, again, end, size, f"{float(calls):.1f} %"]
            )
    head = ["network", "then come", "detector", "agreement falls to", "alarm after", "false alarms before"]
    return "\n".join(
        table([*head, "at the target after", "agreement at the end", "bytes, of quality 75", "scored"], rows)
    )


def _whole(number: str) -> str:
    return f"{float(number):.0f}"


def stationary() -> str:
    """False alarms where nothing changes."""
    form = re.compile(r"([\d.]+) \(.*?\) false alarms a stream, (\d+) at most")
    found: dict[str, dict[str, str]] = {}
    world = ""
    for _, line in by_network("drift.txt", "false alarms where nothing changes"):
        if match := _OBSERVED.match(line):
            content = form.match(match[2])
            assert content, line
            found[world][match[1]] = content[1]
        else:
            world = re.sub(r"^(\w\S+):", lambda name: f"{NETWORKS.get(name[1], name[1])}:", line.strip())
            found[world] = {}
    detectors = ("e-detector", "adacompress", "page-hinkley", "adwin")
    rows = [[world, *(counts[name] for name in detectors)] for world, counts in found.items()]
    return "\n".join(table(["stream", *detectors], rows))


def equal_rates() -> str:
    """Delays of the default detector where it raises as many false alarms as the published rule."""
    form = re.compile(
        rf"^  (\w+), to {_NUMBER}: ours {_NUMBER} .*?, theirs {_NUMBER} .*?: {_NUMBER} of theirs, {_GOAL}"
    )
    rows = []
    for network, line in by_network("drift.txt", "delays at the published rule's own"):
        if match := form.match(line):
            change, fallen, ours, theirs, ratio, goal, most = match.groups()
            missed = f", **missed** {most}" if goal.startswith("MORE") else ""
            rows.append([NETWORKS[network], f"{change}, to {fallen}", ours, theirs, ratio + missed])
    assert rows, "no delays"
    return "\n".join(table(["network", "change, agreement", "e-detector, scores", "published rule", "ratio"], rows))


def tables_alone() -> str:
    """Table families at one setting for all images, beside the standard tables; all optimised progressive, at 0.97."""
    rows: list[list[str]] = []
    families: dict[str, str] = {}
    name = coding = ""
    for line in read("tables.txt"):
        cells = re.split(r"  +", line.strip())
        if heading := re.match(r"^(\S+), (\d+) images of (\w+)", line):
            name, families = f"{NETWORKS[heading[1]]} | {SETS[heading[3]]}, {heading[2]}", {}
        elif len(cells) == 4 and cells[1:] == ["0.95", "0.97", "0.99"]:
            coding = cells[0]
        elif len(cells) == 4 and coding == "optimised progressive":
            families[cells[0]] = cells[2]
        elif best := re.match(
            r"^  best at 0\.97: (\S+) with \S+ of the standard tables' bytes, (at most|MORE than) ([\d.]+)", line
        ):
            missed = f", **missed** {best[3]}" if best[2] != "at most" else ""
            searched = families[best[1]] + missed
            rows.append([*name.split(" | "), searched, families["robidoux"], families["deepn-fitted"]])
        elif claim := re.match(
            r"^  its fitted tables (?:take ([\d.]+)|do not reach).*the standard tables (?:take ([\d.]+)|do not)", line
        ):
            rows[-1] += [claim[1] or "not reached", claim[2] or "not reached"]
    head = ["network", "photographs", "the best", "Robidoux's", "DeepN-JPEG's, fitted"]
    return "\n".join(table([*head, "quality 100 / fitted at 0.99", "quality 100 / standard at 0.99"], rows))


def choosing() -> str:
    """What choosing costs."""
    form = re.compile(
        rf"^(plain|optimised progressive) +features and policy {_NUMBER} of decode \+ encode, {_GOAL}.*?; "
        rf"choose and compress {_NUMBER}, {_GOAL}"
    )
    rows, images = [], ""
    for line in read("choose.txt"):
        if match := form.match(line):
            coding, features, first, most, both, second, limit = match.groups()
            missed = [
                f", **missed** {goal}" if said.startswith("MORE") else ""
                for said, goal in ((first, most), (second, limit))
            ]
            rows.append([images, coding, features + missed[0], both + missed[1]])
        elif match := re.match(r"^(\d+) images of (\w+)", line):
            images = f"{SETS[match[2]]}, {match[1]}"
    head = ["photographs", "coding", "features and policy, of decode and encode", "choose and compress, of a bare loop"]
    return "\n".join(table(head, rows))


def growth() -> str:
    """How one job grows."""
    form = re.compile(r"^(\d+) images: (\d+) s, ([\d.]+) ms an image .*?, peak (\d+) MB")
    rows = [
        [f"{int(match[1]):,}", match[2], rounded(match[3]), f"{match[4]} MB"]
        for line in read("scale.txt")
        if (match := form.match(line))
    ]
    head = ["images of 96 x 64 pixels", "seconds", "ms an image, without start-up", "peak memory, all processes"]
    return "\n".join(table(head, rows))


def in_short() -> str:
    """The README's table: one row for each claim, with the command."""
    found = policies()

    def ratios(kind: str) -> str:
        texts = []
        for place in (0, 1):
            each = [found[key][place] for network in NETWORKS if (key := (network, "all", kind)) in found]
            low, high = (pick((one.mean for one in each), key=float) for pick in (min, max))
            texts.append(f"{rounded(low)} to {rounded(high)} (goal {each[0].goal})")
        return "; ".join(texts)

    def column(block: str, place: int, keep: str = "") -> str:
        lines = [line.split(" | ") for line in block.splitlines()[2:] if keep in line]
        numbers = [cells[place].split()[0] for cells in lines]
        return f"{rounded(min(numbers, key=float))} to {rounded(max(numbers, key=float))}"

    text = "\n".join(read("throughput.txt"))
    ratio = re.search(rf"ratio without start-ups: median {_INTERVAL}", text)
    memory = re.search(rf"^ratio: {_NUMBER}", text, re.MULTILINE)
    assert ratio is not None, "throughput.txt is of another form"
    assert memory is not None, "throughput.txt is of another form"
    size, calls = (column(verified(), place, "all families") for place in (4, 5))
    agreed = f"{size} of quality 75's, {calls} calls an image"
    speed = f"{interval(ratio[1], ratio[2], ratio[3])} of a bare Pillow loop's"
    fixed = "of the fixed quality's bytes"
    rows = [
        [
            "a policy, from features alone, at 0.97; 0.99",
            f"{ratios('features')} {fixed}",
            "rate_agreement.py --only policies",
        ],
        [
            "a policy that looks ahead with a small network",
            f"{ratios('lookahead')} {fixed}",
            "rate_agreement.py --only policies",
        ],
        ["verified choice, every image agreeing", agreed, "rate_agreement.py --only verified"],
        ["AdaCompress's agent as published", f"{column(published_agent(), 5)} {fixed}", "rate_agreement.py --only dqn"],
        ["images a second", speed, "throughput.py --pairs 4"],
        ["peak memory for 20,000 images", f"{memory[1]} times that for 2,000", "throughput.py --memory 2000 20000"],
    ]
    linked = [
        [what, value, f"[`python benchmarks/{command}`](benchmarks/results/{command.split('.')[0]}.txt)"]
        for what, value, command in rows
    ]
    return "\n".join(table(["", "measured", "by"], linked))


BLOCKS: Mapping[str, Callable[[], str]] = {
    "all-together": all_together,
    "single-sets": single_sets,
    "with-copies": with_copies,
    "alignment": alignment,
    "looks": looks,
    "without-policy": without_policy,
    "promise": promise,
    "verified": verified,
    "outsiders": outsiders,
    "elsewhere": elsewhere,
    "published-agent": published_agent,
    "loop": loop,
    "stationary": stationary,
    "equal-rates": equal_rates,
    "tables-alone": tables_alone,
    "choosing": choosing,
    "growth": growth,
    "in-short": in_short,
}
