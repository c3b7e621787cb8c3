"""What a run would come to, from rows of a sample: arithmetic, and how it is said."""

from __future__ import annotations

import json
import math

import pytest

from beam_adacompress.estimates import Interval
from beam_adacompress.prediction import Asked, Machines, Promised, Scored, Tried, on_dataflow, predict
from beam_adacompress.prediction_text import said
from beam_adacompress.records import Choice
from beam_adacompress.sampling import Sampler
from beam_adacompress.survey import Survey, Unit

HERE = Machines(2)
VISION = Asked("google-vision", 0.0015, is_local=False)


def tried(key: str = "a", status: str = "compressed", **changes: object) -> Tried:
    written = status != "failed"
    values = {
        "reason": {"kept": "alpha", "failed": "truncated"}.get(status),
        "tables": "annexk" if written else None,
        "quality": 35 if written else None,
        "bytes_in": 1000,
        "bytes_out": {"compressed": 300, "kept": 1000, "failed": 0}[status],
        "cpu": 0.01,
        "calls": 0,
        "agreement": None,
        "scoring_cpu": None,
    }
    return Tried(key, status, **{**values, **changes})


def survey(*rows: Tried, units: int = 0) -> Survey:
    count = units or len(rows)
    return Survey(count, 1000.0 * count, [Unit(1000, 1, [row]) for row in rows])


ALL_KINDS = (tried("a"), tried("b", bytes_out=500), tried("c", "kept"), tried("d", "failed"))


def test_a_whole_corpus():
    found = predict(survey(*ALL_KINDS), 7, HERE)
    assert (found.sample, found.seed, found.exact, found.images) == (4, 7, True, (4, 4, 4))
    assert (found.compressed, found.kept, found.failed) == ((2, 2, 2), (1, 1, 1), (1, 1, 1))
    assert found.reasons == {"kept": {"alpha": 1}, "failed": {"truncated": 1}}
    assert found.qualities == {35: 2}
    assert found.bytes_in == (3000, 3000, 3000)
    assert found.bytes_out == (1800, 1800, 1800)
    assert found.saved == (1200, 1200, 1200)
    assert found.bytes_failed == (1000, 1000, 1000)
    assert found.size_ratio == pytest.approx((0.6, 0.6, 0.6))
    assert (found.promised, found.agreement, found.agreed_on, found.calls) == (None, None, 0, [])
    assert found.cpu_per_image == pytest.approx((0.01, 0.01, 0.01)), "all took the same time"
    assert found.seconds_here == pytest.approx((0.02, 0.02, 0.02))


def test_a_sample_stands_for_all():
    found = predict(survey(*ALL_KINDS, units=8), 0, HERE)
    assert not found.exact
    assert found.images == (8, 8, 8)
    assert found.compressed.mean == 4
    assert found.compressed.low == 2
    assert found.compressed.high <= 6
    assert found.bytes_out.mean == 3600
    assert found.bytes_out.low >= 1800
    assert found.saved.low < 2400 < found.saved.high
    assert found.bytes_in.low < 6000 < found.bytes_in.high, "of failed ones nothing is written"


def test_calls_of_scoring_a_whole_corpus_are_those_of_the_sampler():
    rows = [tried(f"{index}.jpg", "kept" if index % 3 else "compressed") for index in range(50)]
    rows.append(tried("failed", "failed"))
    sampler = Sampler(0.2, 0.0, salt="s")
    known = Sampler(0.2, 0.0, {"annexk-35": 50}, "s")
    choice = Choice("annexk", 35, "", 1.0, None)
    wanted = sum(1 if index % 3 else 2 for index in range(50) if known.samples(f"{index}.jpg", choice))
    (calls,) = predict(survey(*rows), 0, HERE, scored=Scored(VISION, sampler)).calls
    assert wanted > 5
    assert calls.calls == (wanted, wanted, wanted)
    assert calls.cost == pytest.approx((wanted * 0.0015,) * 3)
    assert (calls.backend, calls.what, calls.price, calls.measured) == ("google-vision", "score", 0.0015, False)


def test_calls_of_scoring_a_sample():
    rows = [tried(f"{index}") for index in range(50)]
    (calls,) = predict(survey(*rows, units=1000), 0, HERE, scored=Scored(VISION, Sampler(0.1, 0.0))).calls
    # 2 calls of each of 100 images, all alike: what varies is which are sampled, 1000 * 2^2 * 0.1 * 0.9.
    assert calls.calls == pytest.approx((200, 200 - 1.96 * math.sqrt(360), 200 + 1.96 * math.sqrt(360)), rel=1e-4)
    limited = Asked("google-vision", 0.0015, is_local=False, most_calls=190)
    (calls,) = predict(survey(*rows, units=1000), 0, HERE, scored=Scored(limited, Sampler(0.1, 0.0))).calls
    assert calls.calls == pytest.approx((190, 200 - 1.96 * math.sqrt(360), 190), rel=1e-4)


def test_rare_actions_keep_their_share_of_the_calls():
    rows = [tried("rare", "kept", quality=90), *(tried(f"{index}") for index in range(99))]
    (calls,) = predict(survey(*rows, units=1000), 0, HERE, scored=Scored(VISION, Sampler(0.1, 0.5))).calls
    assert calls.calls.mean == pytest.approx(10 + 2 * 90), "of 100 sampled images, all 10 of the rare action"


def test_calls_of_verifying():
    local = [Asked("litert", 0.0, is_local=True), Asked("keras", 0.0, is_local=True)]
    rows = [tried("a", calls=10), tried("b", calls=14)]
    found = predict(survey(*rows), 0, HERE, verifying=local).calls
    assert [(each.backend, each.calls, each.measured) for each in found] == [
        ("litert", (12, 12, 12), True),
        ("keras", (12, 12, 12), True),
    ]
    (paid,) = predict(survey(*rows), 0, HERE, verifying=[VISION]).calls
    assert (paid.calls, paid.measured) == ((10, 8, 12), False)


def test_agreement_is_measured_over_what_was_answered():
    rows = [tried("a", agreement=1), tried("b", agreement=1), tried("c", agreement=0), tried("d")]
    found = predict(survey(*rows), 0, HERE)
    assert found.agreed_on == 3
    assert found.agreement == pytest.approx((2 / 3, 2 / 3, 2 / 3))


def test_time_without_what_was_loaded_once():
    rows = [tried("a", cpu=None), tried("b", cpu=0.02), tried("c", cpu=0.04)]
    found = predict(survey(*rows, units=100), 0, HERE)
    assert found.cpu.mean == pytest.approx(3.0)
    assert found.cpu_per_image.mean == pytest.approx(0.03)
    # s^2 = 0.0002; 100^2 / 2 * 0.0002 = 1; t(1): more than the time itself.
    assert found.cpu.high == pytest.approx(3 + 12.7062, rel=1e-5)
    assert found.cpu.low == 0
    assert predict(survey(tried(cpu=None), tried(cpu=None), units=9), 0, HERE).cpu is None


def test_scoring_in_the_worker_takes_time_as_well():
    rows = [tried("a", agreement=1, scoring_cpu=0.1), tried("b", agreement=1, scoring_cpu=0.1)]
    local = Scored(Asked("litert", 0.0, is_local=True), Sampler(0.5, 0.0))
    assert predict(survey(*rows, units=100), 0, HERE, scored=local).cpu.mean == pytest.approx(1 + 0.5 * 10)


def test_hours_on_dataflow():
    machines = Machines(2, True, "n2-standard-8", workers=4, price=0.5)
    found = on_dataflow(Interval(50400, 25200, 75600), machines)
    assert found.vcpu_hours == pytest.approx((20, 10, 30))
    assert found.worker_hours == pytest.approx((2.7, 1.45, 3.95)), "20 / 8, and four times 180 s"
    assert found.hours == pytest.approx((0.675, 0.3625, 0.9875))
    assert found.cost == pytest.approx((1.35, 0.725, 1.975))
    unknown = on_dataflow(Interval(50400, 25200, 75600), Machines(2, True, "e2-micro"))
    assert unknown.vcpu_hours.mean == pytest.approx(20)
    assert (unknown.worker_hours, unknown.hours, unknown.cost) == (None, None, None)


@pytest.mark.parametrize(
    ("machine_type", "vcpus"),
    [("e2-standard-4", 4), ("n2d-highmem-96", 96), ("n2-custom-6-8192", 6), ("custom-2-4096", 2), ("e2-micro", None)],
)
def test_vcpus_of_a_machine_type(machine_type, vcpus):
    assert Machines(1, machine_type=machine_type).vcpus == vcpus


def test_a_price_is_a_price():
    with pytest.raises(ValueError, match="worker_price must be a number of USD from 0, got -1"):
        Machines(1, price=-1)


def test_it_is_said():
    rows = [*(tried(f"{index}", cpu=0.01 + 0.001 * (index % 2)) for index in range(96)), *ALL_KINDS]
    promised = Promised("agreement-1", 0.97, 0.95, 872)
    found = predict(survey(*rows, units=10_000), 3, HERE, promised, Scored(VISION, Sampler(0.1, 0.0)))
    assert list(said(found)) == [
        "dry run: 100 of 10,000 images tried (seed 3); nothing was written",
        "                      predicted   95 % interval",
        "images                   10,000   exact",
        "  compressed              9,800   9,299 to 9,945",
        "  kept                      100   17 to 545               in the sample: alpha 1",
        "  failed                    100   17 to 545               in the sample: truncated 1",
        "bytes before             9.9 MB   9.7 MB to 10.1 MB",
        "bytes after              3.1 MB   2.9 MB to 3.2 MB",
        "bytes saved              6.8 MB   6.6 MB to 7.0 MB",
        "size ratio                0.309   0.295 to 0.324",
        "agreement promised: at least 0.97 with a confidence of 0.95, by 872 calibration images of the policy "
        "agreement-1",
        "calls to score            1,970   1,845 to 2,095          of google-vision at 0.0015 USD: 2.96 USD (2.77 USD "
        "to 3.14 USD)",
        "at most so many calls, retries not counted: the cache may have answers; no paid call was made",
        "CPU an image            10.5 ms   10.4 ms to 10.6 ms",
        "CPU                     104.8 s   103.8 s to 105.8 s      writing not counted",
        "time                     52.4 s   51.9 s to 52.9 s        with 2 workers here, start-up not counted",
    ]


def test_the_arithmetic_of_dataflow_is_said():
    rows = [tried(f"{index}", cpu=0.01) for index in range(10)]
    machines = Machines(2, True, "e2-standard-4", workers=10, price=0.25)
    lines = list(said(predict(survey(*rows, units=100_000_000), 0, machines)))
    assert lines[-7:] == [
        "CPU an image            10.0 ms   10.0 ms to 10.0 ms",
        "CPU                     277.8 h   277.8 h to 277.8 h      writing not counted",
        "on Dataflow, if a vCPU there is as fast as a core here:",
        "  1,000,000.0 CPU s / 3,600 / 0.7 busy = 396.825 vCPU hours (396.825 to 396.825)",
        "  396.825 / 4 vCPUs of e2-standard-4 + 10 workers x 180 s start-up / 3,600 = 99.706 worker hours "
        "(99.706 to 99.706)",
        "  99.706 / 10 workers = 9.971 hours",
        "  99.706 x 0.25 USD = 24.93 USD (24.93 USD to 24.93 USD)",
    ]


def test_what_is_not_known_is_said():
    rows = [tried("a", cpu=None), tried("b", cpu=None)]
    lines = list(said(predict(survey(*rows, units=9), 0, HERE, verifying=[VISION])))
    assert "agreement: each result will have been verified before it is written" in lines
    assert (
        "bytes and time are those of the proposals, which a paid backend would verify: the results may differ" in lines
    )
    assert lines[-1] == "CPU time: not known; a larger --sample measures it"
    fixed = list(said(predict(survey(*rows), 0, HERE)))
    assert fixed[0] == "dry run: all 2 images tried (seed 0); nothing was written"
    assert "agreement: not known; a policy promises one, and --score-with a local network measures it" in fixed
    micro = Machines(1, True, "e2-micro")
    lines = list(said(predict(survey(tried("a"), tried("b")), 0, micro)))
    assert lines[-1] == "  how many vCPUs e2-micro has is not known, so worker hours are not, either"
    lines = list(said(predict(survey(tried("a"), tried("b")), 0, Machines(1, True))))
    assert lines[-1] == "  price: give --worker-price USD, that of one worker and hour with its memory and disk"


def test_it_is_json():
    found = predict(survey(*ALL_KINDS), 0, HERE, scored=Scored(VISION, Sampler(1.0, 0.0)))
    content = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert content["bytes_out"] == {"mean": 1800, "low": 1800, "high": 1800}
    assert content["qualities"] == {"35": 2}
    assert content["promised"] is None
    assert content["calls"][0]["calls"] == {"mean": 5, "low": 5, "high": 5}
    assert content["machines"]["here"] == 2
    one = predict(Survey(3, 30, [Unit(10, 4, [tried("a"), tried("b")])]), 0, HERE)
    assert json.loads(json.dumps(one.to_json(), allow_nan=False))["bytes_out"]["high"] is None
