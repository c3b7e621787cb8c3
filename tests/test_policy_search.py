from __future__ import annotations

import numpy as np
import pytest

from beam_adacompress.policy.search import NOISE, WORTH, WORTH_WITHIN_ONE, Answer, Found, Recollection, cheapest, worth

# Four images under three actions; from the predicted bytes below and an original of 1000.
TINY = Recollection(np.array([[1, 1, 1], [0, 1, 1], [0, 0, 1], [0, 0, 1]]) > 0)
PREDICTED = np.array([200.0, 400.0, 600.0])


class Backend:
    """Agrees with some actions, whose results have so many bytes; remembers what it was asked."""

    def __init__(self, agrees, sizes=PREDICTED, larger=()):
        self.agrees = set(agrees)
        self.sizes = sizes
        self.larger = larger
        self.asked = []

    def __call__(self, action):
        self.asked.append(action)
        return Answer(None if action in self.larger else action in self.agrees, float(self.sizes[action]))


def test_noise_is_that_of_the_numbers_here_and_a_single_family_is_asked_less():
    assert NOISE == 0.05
    assert [worth(families) for families in (1, 2, 9)] == [WORTH_WITHIN_ONE, WORTH, WORTH]
    assert WORTH_WITHIN_ONE > WORTH


def test_chances_by_hand():
    three = Recollection(np.array([[1, 0], [1, 1], [0, 1]]) > 0)
    assert len(three) == 3
    assert three.chances(np.ones(3, np.float32)) == pytest.approx([0.65, 0.65])  # (0.95 + 0.95 + 0.05) / 3
    # The third image does not count; of the second only a half: (0.05 + 0.95 / 2) / 1.5 for the second action.
    assert three.chances(np.array([1, 0.5, 0], np.float32)) == pytest.approx([0.95, 0.35])


def test_weights_by_hand():
    three = Recollection(np.array([[1, 0], [1, 1], [0, 1]]) > 0)
    ones = np.ones(3, np.float32)
    agreed = three.told(ones, 0, True)
    assert agreed == pytest.approx([1, 1, 1 / 19])  # 0.05 / 0.95
    assert three.told(ones, 1, False) == pytest.approx([1, 1 / 19, 1 / 19])
    assert three.told(agreed, 1, False) == pytest.approx([1, 1 / 19, 1 / 361])
    assert three.told(agreed, 1, True) == pytest.approx([1 / 19, 1, 1 / 19])


def test_how_typical_an_image_is_by_hand():
    # The shares are (0.275, 0.5, 0.95): the first image's answers have 0.275 where the others' have 0.725.
    assert TINY.typical == pytest.approx([0.275 / 0.725, 1, 1, 1])
    # Of many actions even a typical row has a tiny likelihood: it counts as 1 all the same.
    assert Recollection(np.tile(TINY.answers, 500)).typical == pytest.approx([0, 1, 1, 1], rel=1e-4)


@pytest.mark.parametrize(("share", "asked"), [(0.14, [2]), (0.13, [2, 1]), (0.03, [2, 1, 0])])
def test_questions_and_the_stop_by_hand(share, asked):
    # The first image counts 0.3793, the sum is 3.3793.
    # First: chances (0.1510, 0.4173, 0.95) times savings (800, 600, 400): 121, 250, 380. It agrees, as with all.
    # Second: (0.1510, 0.4173) times (400, 200): 60.4, 83.5, which is 0.1391 of 600. It does not agree: the first two
    # images keep a 19th of their weight.
    # Third: (0.95 * 0.01996 + 0.05 * 2.0526) / 2.0726 = 0.0587 times 400: 23.5, which is 0.0391 of 600.
    backend = Backend(agrees={2})
    assert cheapest(TINY, PREDICTED, 1000, backend, most=3, least_saving=share) == Found(2, len(asked))
    assert backend.asked == asked


def test_the_first_question_saves_most():
    backend = Backend(agrees={0, 1, 2})
    assert cheapest(TINY, np.array([200.0, 400.0, 900.0]), 1000, backend, most=1) == Found(1, 1)
    assert backend.asked == [1]  # 121, 250, and 0.95 * 100


def test_sizes_not_known_yet_are_corrected_by_those_that_are():
    # Half as large as predicted, all of them. Of what is predicted, the second one would not be below 300.
    backend = Backend(agrees={2}, sizes=PREDICTED / 2)
    assert cheapest(TINY, PREDICTED, 1000, backend, most=3) == Found(2, 3)
    assert backend.asked == [2, 1, 0]
    # Twice as large: what is predicted below the original is not, and is not asked about.
    backend = Backend(agrees=(), sizes=PREDICTED * 2, larger={2})
    assert cheapest(TINY, np.array([200.0, 560.0, 600.0]), 1000, backend, most=3) == Found(None, 1)
    assert backend.asked == [2, 0]


def test_corrections_are_averaged_geometrically():
    # Four times and then a quarter of the predicted bytes are no error on the whole; the arithmetic mean of 2.125 would
    # put the 500 of the second one above the original.
    backend = Backend(agrees={1}, sizes=np.array([50.0, 500.0, 2400.0]), larger={2})
    assert cheapest(TINY, np.array([200.0, 500.0, 600.0]), 1000, backend, most=3) == Found(1, 2)
    assert backend.asked == [2, 0, 1]


def test_of_actions_that_come_to_one_file_one_is_asked_about():
    backend = Backend(agrees={1, 2})
    assert cheapest(TINY, PREDICTED, 1000, backend, most=3, files=np.array([7, 7, 2])) == Found(1, 2)
    assert backend.asked == [2, 1]
    # It is as with three files, but for the last question.
    assert cheapest(TINY, PREDICTED, 1000, backend, most=3, files=np.arange(3)) == Found(1, 3)
    assert backend.asked[2:] == [2, 1, 0]


def test_what_would_not_be_smaller_costs_nothing_and_says_nothing():
    # Chances (0.583, 0.849, 0.417) times savings (800, 600, 400): 466, 509, 167. Had the second one disagreed, the last
    # image would outweigh the others, and the third action would be next.
    four = Recollection(np.array([[1, 1, 0], [1, 1, 0], [0, 1, 1], [0, 0, 1]]) > 0)
    backend = Backend(agrees={2}, larger={1})
    assert cheapest(four, PREDICTED, 1000, backend, most=3) == Found(2, 2)
    assert backend.asked == [1, 0, 2]
    backend = Backend(agrees={2})
    assert cheapest(four, PREDICTED, 1000, backend, most=3).action == 2
    assert backend.asked[:2] == [1, 2]


@pytest.mark.parametrize("most", [1, 2])
def test_no_more_is_asked_once_one_has_agreed(most):
    backend = Backend(agrees={2})
    assert cheapest(TINY, PREDICTED, 1000, backend, most=most, least_saving=0) == Found(2, most)
    assert len(backend.asked) == most


def test_all_are_asked_until_one_agrees():
    backend = Backend(agrees=())
    assert cheapest(TINY, PREDICTED, 1000, backend, most=1, least_saving=0.5) == Found(None, 3)
    assert sorted(backend.asked) == [0, 1, 2]
    backend = Backend(agrees={2})
    assert cheapest(TINY, PREDICTED, 600, backend, most=1) == Found(None, 2)
    assert sorted(backend.asked) == [0, 1], "the third one is as large as the original"
    backend = Backend(agrees={0, 1, 2})
    assert cheapest(TINY, PREDICTED, 200, backend, most=3) == Found(None, 0)
    assert backend.asked == []


@pytest.mark.parametrize("image", range(8))
def test_an_image_like_one_that_is_remembered_gets_its_cheapest_action(image):
    ladder = np.arange(8)
    recollection = Recollection(ladder >= ladder[:, None])
    sizes = 100 * 2.0 ** (ladder / 2)
    backend = Backend(agrees=ladder[image:], sizes=sizes)
    found = cheapest(recollection, sizes, 5000, backend, most=8, least_saving=0.04)
    assert found.action == image
    assert found.asked == len(backend.asked) <= 7
    assert len(set(backend.asked)) == len(backend.asked)


def test_what_disagreed_is_never_taken():
    random = np.random.default_rng(0)
    recollection = Recollection(random.uniform(size=(30, 6)) < 0.5)
    for _ in range(200):
        agrees = set(np.flatnonzero(random.uniform(size=6) < 0.4).tolist())
        sizes = random.uniform(100, 900, 6)
        backend = Backend(agrees, sizes)
        found = cheapest(recollection, sizes, 1000, backend, most=6)
        agreed = [action for action in backend.asked if action in agrees]
        assert found == Found(min(agreed, key=lambda action: sizes[action], default=None), len(backend.asked))


def world(images, seed):
    """Images that are more or less easy, for each of two families, of eleven qualities each."""
    random = np.random.default_rng(seed)
    ease = random.normal(0, 1, (images, 1, 1)) + 0.6 * random.normal(0, 1, (images, 2, 1))
    noise = 0.3 * random.normal(0, 1, (images, 2, 11))
    answers = (ease + np.linspace(-1.5, 3.5, 11) + noise > 0).reshape(images, 22)
    steps = np.concatenate([np.geomspace(0.08, 0.8, 11), np.geomspace(0.07, 0.75, 11)])
    original = np.exp2(random.normal(14, 0.7, images))
    return answers, original[:, None] * steps, original


def test_few_questions_come_close_to_the_cheapest_of_all():
    recollection = Recollection(world(1000, seed=0)[0])
    answers, sizes, original = world(500, seed=1)
    asked, taken, least = 0, 0.0, 0.0
    for image in range(500):
        backend = Backend(np.flatnonzero(answers[image]).tolist(), sizes[image])
        found = cheapest(recollection, sizes[image], original[image], backend, most=22, least_saving=0.04)
        assert found.action in backend.agrees
        asked += found.asked
        taken += sizes[image, found.action]
        least += sizes[image][answers[image]].min()
    assert asked / 500 <= 6
    assert 1 <= taken / least <= 1.1
