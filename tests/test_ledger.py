"""The limits of a job hold across processes, also when some of them are killed."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from beam_adacompress.errors import AdaCompressError
from beam_adacompress.transforms import files
from beam_adacompress.transforms.ledger import Ledger


def claims(folder: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def test_a_budget_is_spent_once(tmp_path):
    ledger = Ledger(str(tmp_path), max_calls=10, calls_per_second=None)
    assert [ledger.claim(4, ahead=0).calls for _ in range(4)] == [4, 4, 2, 0]
    assert [claim["total"] for claim in claims(tmp_path)] == [4, 8, 10]


def test_two_workers_share_a_budget(tmp_path):
    one, two = (Ledger(str(tmp_path), max_calls=10, calls_per_second=None) for _ in range(2))
    assert [ledger.claim(3, 0).calls for ledger in (one, two, two, one, two)] == [3, 3, 3, 1, 0]


def test_a_worker_that_comes_later_knows_what_is_spent(tmp_path):
    Ledger(str(tmp_path), 10, None).claim(8, 0)
    assert Ledger(str(tmp_path), 10, None).claim(8, 0).calls == 2


def test_a_rate_spaces_the_calls_of_all_workers(tmp_path):
    one, two = (Ledger(str(tmp_path), None, calls_per_second=100) for _ in range(2))
    start = time.time()
    times = [ledger.claim(1, 0).at for _ in range(25) for ledger in (one, two)]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    # On a busy disk a claim may be late, and so come near the next one; never early.
    assert sum(gap < 0.0099 for gap in gaps) <= 2
    assert times[-1] - start == pytest.approx(0.53, abs=0.1)


def test_a_batch_takes_the_time_of_all_its_images(tmp_path):
    ledger = Ledger(str(tmp_path), None, calls_per_second=100)
    first, second = ledger.claim(16, 0), ledger.claim(1, 0)
    assert 0.16 <= second.at - first.at <= 0.18


def test_time_without_calls_is_not_made_up_for(tmp_path):
    ledger = Ledger(str(tmp_path), None, calls_per_second=100)
    ledger.claim(1, 0)
    time.sleep(0.3)
    times = [ledger.claim(1, 0).at for _ in range(10)]
    assert times[-1] - times[0] >= 0.089


def test_time_that_has_gone_by_is_not_made_up_for_by_several_workers(tmp_path):
    """Each holds calls claimed ahead when all are paused; afterwards they are spaced over all workers again."""
    ledgers = [Ledger(str(tmp_path), None, calls_per_second=100) for _ in range(4)]
    for ledger in ledgers:
        ledger._most_ahead = 20
        ledger.claim(1, ahead=20)
    time.sleep(1.2)
    times = sorted(ledger.claim(1, ahead=0).at for ledger in ledgers for _ in range(10))
    assert min(later - earlier for earlier, later in itertools.pairwise(times)) >= 0.0099


def test_calls_can_be_postponed_without_being_counted_twice(tmp_path):
    ledger = Ledger(str(tmp_path), max_calls=3, calls_per_second=100)
    granted = ledger.claim(3, 0)
    assert ledger.postpone(3) >= granted.at + 0.03
    assert [claim["total"] for claim in claims(tmp_path)] == [3, 3]
    assert ledger.claim(1, 0).calls == 0


def test_a_batch_may_not_exceed_the_rate_alone(tmp_path):
    assert Ledger(str(tmp_path), None, calls_per_second=2.5).most_at_once == 2
    assert Ledger(str(tmp_path), None, calls_per_second=0.1).most_at_once == 1
    assert Ledger(str(tmp_path), 10, None).most_at_once is None


def test_a_budget_of_nothing(tmp_path):
    assert Ledger(str(tmp_path), 0, None).claim(1, 0).calls == 0


def hammer(folder: str, made: str, calls: int) -> None:
    ledger = Ledger(folder, max_calls=200, calls_per_second=None)
    with open(made, "ab", buffering=0) as file:
        for _ in range(calls):
            granted = ledger.claim(3, 0).calls
            file.write(b"." * granted)  # the calls, made


@pytest.mark.heavy
def test_processes_at_once_never_exceed_the_budget(tmp_path):
    context = multiprocessing.get_context("spawn")
    made = tmp_path / "made"
    workers = [context.Process(target=hammer, args=(str(tmp_path / "ledger"), str(made), 40)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert made.stat().st_size == 200  # 3 x 40 x 3 were wanted
    totals = [claim["total"] for claim in claims(tmp_path / "ledger")]
    assert totals == sorted(set(totals))
    assert totals[-1] == 200


def test_a_killed_worker_loses_calls_but_makes_none_too_many(tmp_path):
    context = multiprocessing.get_context("spawn")
    made = tmp_path / "made"
    made.touch()
    victim = context.Process(target=hammer, args=(str(tmp_path / "ledger"), str(made), 1000))
    victim.start()
    while made.stat().st_size < 30:
        time.sleep(0.001)
    os.kill(victim.pid, signal.SIGKILL)
    victim.join()
    hammer(str(tmp_path / "ledger"), str(made), 100)
    assert 197 <= made.stat().st_size <= 200


def test_a_remote_ledger_claims_ahead(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "is_local", lambda path: False)
    ledger = Ledger("gs://bucket/ledger", max_calls=100, calls_per_second=20)
    store: dict[str, bytes] = {}
    monkeypatch.setattr(files, "create", lambda path, data, scratch: store.setdefault(path, data) is data)
    monkeypatch.setattr(files, "listing", lambda folder: iter(()))
    monkeypatch.setattr(files, "status", lambda path: store.get(path))
    times = [ledger.claim(1, ahead=50).at for _ in range(42)]
    assert len(store) == 2  # one request for 21 calls, not one for each
    assert min(later - earlier for earlier, later in itertools.pairwise(times)) >= 0.0499


def test_where_nobody_can_be_first_there_is_no_ledger():
    with pytest.raises(AdaCompressError, match=r"only local disks and gs:// can create a file for just one"):
        Ledger("s3://bucket/ledger", 10, None)


def test_damage_stops_the_calls(tmp_path):
    (tmp_path / "000000000000.json").write_text("{")
    with pytest.raises(AdaCompressError, match=r"000000000000\.json is no claim of a ledger"):
        Ledger(str(tmp_path), 10, None).claim(1, 0)


def test_another_version_stops_the_calls(tmp_path):
    (tmp_path / "000000000000.json").write_text('{"format_version": 2}')
    with pytest.raises(AdaCompressError, match="has ledger version 2, and this is adacompress for version 1"):
        Ledger(str(tmp_path), 10, None).claim(1, 0)


def test_a_folder_that_cannot_be_written_stops_the_calls(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(AdaCompressError, match=r"cannot be kept: .*; no call is made without it"):
        Ledger(str(tmp_path / "file" / "ledger"), 10, None).claim(1, 0)
