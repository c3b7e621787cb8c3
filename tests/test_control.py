from __future__ import annotations

import json
import os

import pytest

from beam_adacompress.drift.loop import Advice
from beam_adacompress.errors import AdaCompressError
from beam_adacompress.transforms.control import read_control, write_control


def test_the_last_advice_stands(tmp_path):
    root = f"{tmp_path}/root"
    assert read_control(root) is None
    write_control(root, Advice("estimate", 0.2, 0.02, "agreement-1"))
    write_control(root, Advice("inference", 0.05, 0.0, "agreement-2"))
    assert read_control(root) == Advice("inference", 0.05, 0.0, "agreement-2")
    with open(f"{root}/STATE") as file:
        assert json.load(file) == {
            "format": "adacompress.drift-state",
            "format_version": 1,
            "state": "inference",
            "sample_rate": 0.05,
            "explore": 0.0,
            "policy_version": "agreement-2",
        }


def test_advice_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    root = str(tmp_path)
    write_control(root, Advice("estimate", 0.2, 0.02, "a"))

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(AdaCompressError, match=r"the state of drift .*/STATE cannot be written: No space left on devi"):
        write_control(root, Advice("retrain", 1.0, 0.02, "a"))
    assert read_control(root) == Advice("estimate", 0.2, 0.02, "a")
    assert os.listdir(f"{root}/_adacompress") == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "adacompress.latest"}, "STATE is damaged .its format is 'adacompress.latest'.: delete it, the job"),
        ({"format_version": 2}, "STATE has version 2, and this is adacompress for version 1: use the release"),
        ({"state": "panic"}, "STATE is damaged .there is no state 'panic'"),
        ({"sample_rate": 1.5}, r"STATE is damaged .sample_rate is 1\.5 and explore is 0\.02"),
        ({"sample_rate": float("nan")}, "STATE is damaged .sample_rate is nan"),
        ({"explore": 1.0}, r"STATE is damaged .sample_rate is 0\.2 and explore is 1\.0"),
        ({"explore": None}, "STATE is damaged"),
    ],
)
def test_broken_advice_is_refused_in_one_sentence(tmp_path, changes, message):
    root = str(tmp_path)
    write_control(root, Advice("estimate", 0.2, 0.02, "a"))
    path = tmp_path / "STATE"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(AdaCompressError, match=message) as refused:
        read_control(root)
    assert "\n" not in str(refused.value)


def test_half_a_file_is_refused(tmp_path):
    (tmp_path / "STATE").write_text('{"format": "adacompress.dri')
    with pytest.raises(AdaCompressError, match="STATE is damaged"):
        read_control(str(tmp_path))
