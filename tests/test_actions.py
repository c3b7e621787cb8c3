from __future__ import annotations

import json

import numpy as np
import pytest

from beam_adacompress import jpeg
from beam_adacompress.errors import AdaCompressError
from beam_adacompress.jpeg.tables import Family
from beam_adacompress.policy.actions import Action, ActionSpace, action_space, from_json
from beam_adacompress.policy.outcomes import CALIBRATE, TEST, TRAIN, VALIDATE, outcomes, part_of
from beam_adacompress.trials import NO_ANSWER, Trial

SPACE = action_space(["annexk", "robidoux"], [10, 50, 90])


def test_a_space_of_families_and_qualities():
    assert len(SPACE) == 6
    assert list(SPACE) == [SPACE[index] for index in range(6)]
    assert SPACE[4] == Action("robidoux", 50)
    assert [SPACE.index(action) for action in SPACE] == list(range(6))
    assert SPACE.quantisation(4) == jpeg.quantisation("robidoux", 50)


def test_any_fitted_family_is_an_action_without_a_change_of_code(tmp_path):
    steps = tuple(float(step) for step in range(1, 65))
    (tmp_path / "mine.json").write_bytes(Family("mine", steps, steps).to_json())
    space = action_space(["annexk", str(tmp_path / "mine.json")])
    assert Action("mine", 20) in list(space)
    assert space.quantisation(space.index(Action("mine", 90))).luma[63] == 13


def test_a_space_is_data(tmp_path):
    again = from_json(json.loads(json.dumps(SPACE.to_json())), "policy.json")
    assert again == SPACE
    content = SPACE.to_json()
    content["families"][0]["format_version"] = 9
    with pytest.raises(AdaCompressError, match=r"policy\.json has tables version 9"):
        from_json(content, "policy.json")


def test_actions_with_the_same_tables_are_tried_once():
    flat = Family("flat", (4000.0,) * 64, (4000.0,) * 64)
    unique, columns = ActionSpace((flat,), (10, 20, 96)).distinct()
    assert [tables.luma[0] for tables in unique] == [255]
    assert columns.tolist() == [0, 0, 0]
    unique, columns = SPACE.distinct()
    assert (len(unique), columns.tolist()) == (6, list(range(6)))


@pytest.mark.parametrize(
    ("families", "qualities", "message"),
    [
        (["annexk"], [50, 10], r"qualities must ascend from 1 to 100 at most, got \(50, 10\)"),
        (["annexk"], [50, 101], "qualities must ascend"),
        (["annexk", "annexk"], [50], "two families of tables are called annexk"),
        ([], [50], "at least one family"),
        (["nonsense"], [50], "unknown quantisation tables 'nonsense'"),
    ],
)
def test_what_is_no_space(families, qualities, message):
    with pytest.raises(ValueError, match=message):
        action_space(families, qualities)


def trial(key, ranks, backend="x", sizes=(10, 20, 30)):
    return Trial(key, "0", backend, "1", 8, 8, 100, 50, [1.0, 2.0], list(sizes), list(ranks), [0.5] * len(ranks), 4, [])


def test_outcomes_of_one_backend():
    table = outcomes([trial("b", [1, 5, 6]), trial("a", [0, 2, 1])], columns=[0, 2, 2, 1])
    assert table.keys == ("a", "b")
    assert table.agreement.tolist() == [[0, 1, 1, 1], [1, 0, 0, 1]]
    assert table.strict.tolist() == [[0, 1, 1, 0], [1, 0, 0, 0]]
    assert table.sizes.tolist() == [[10, 30, 30, 20]] * 2
    assert (table.features.shape, table.bytes_in.tolist(), table.bytes_75.tolist()) == ((2, 2), [100, 100], [50, 50])
    assert outcomes([trial("b", [1, 5, 6])], [0, 1, 2], top=6).agreement.tolist() == [[1, 1, 1]]


def test_several_backends_have_to_agree_all():
    trials = [trial("a", [1, 1, 0]), trial("a", [0, 3, 1], "y"), trial("b", [1, 1, 1])]
    table = outcomes(trials, [0, 1, 2])
    assert table.keys == ("a",), "of b one answer is missing"
    assert table.agreement.tolist() == [[0, 1, 0]]
    assert table.strict.tolist() == [[0, 0, 0]]


def test_images_without_every_answer_are_left_out():
    assert outcomes([trial("a", [1, NO_ANSWER, 1]), trial("b", [1, 1, 1])], [0, 1, 2]).keys == ("b",)
    assert outcomes([], [0, 1, 2]).sizes.shape == (0, 3)


def test_every_entry_as_if_it_had_been_logged():
    table = outcomes([trial("a", [0, 1, 1]), trial("b", [1, 0, 1])], [0, 1, 2])
    logged = table.logged()
    assert logged.action.tolist() == [0, 1, 2, 0, 1, 2]
    assert logged.agreement.tolist() == [0, 1, 1, 1, 0, 1]
    assert logged.size.tolist() == [10, 20, 30, 10, 20, 30]
    assert (logged.features.shape, set(logged.propensity)) == ((6, 2), {1.0})


def test_images_are_kept_apart_by_their_keys():
    parts = [part_of(f"{index}.jpg") for index in range(4000)]
    shares = {part: parts.count(part) / 4000 for part in (TRAIN, VALIDATE, CALIBRATE, TEST)}
    assert shares == pytest.approx({TRAIN: 0.5, VALIDATE: 0.1, CALIBRATE: 0.2, TEST: 0.2}, abs=0.03)
    assert [part_of(f"{index}.jpg") for index in range(9)] == parts[:9]
    assert [part_of(f"{index}.jpg", "other") for index in range(50)] != parts[:50]
    table = outcomes([trial(f"{index}.jpg", [1, 1, 1]) for index in range(50)], [0, 1, 2])
    mine, others = table.of([TRAIN, VALIDATE]), table.of([CALIBRATE, TEST])
    assert set(mine.keys) | set(others.keys) == set(table.keys)
    assert not set(mine.keys) & set(others.keys)
    assert np.array_equal(mine.features, np.tile([1.0, 2.0], (len(mine.keys), 1)))
