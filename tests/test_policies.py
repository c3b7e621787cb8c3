from __future__ import annotations

import numpy as np
import pytest
from conftest import encoded, picture

from beam_adacompress import jpeg
from beam_adacompress.errors import AdaCompressError
from beam_adacompress.jpeg.tables import Family, family
from beam_adacompress.policy import artefact, learned
from beam_adacompress.policy.actions import ActionSpace
from beam_adacompress.policy.agreement import AgreementModel
from beam_adacompress.policy.artefact import PolicyArtefact
from beam_adacompress.policy.calibration import Calibration
from beam_adacompress.policy.dqn import DQNAgent, QNetwork
from beam_adacompress.policy.features import NAMES, features
from beam_adacompress.policy.fit_dqn import DQN
from beam_adacompress.policy.learned import AgreementAgent
from beam_adacompress.policy.lookahead import Sight
from beam_adacompress.policy.policies import Serving, onlooker
from beam_adacompress.policy.search import Recollection
from beam_adacompress.records import Choice

COUNT = len(NAMES)
CHANCES = (0.6, 0.9, 0.99)
ANNEXK = ActionSpace((family("annexk"),), (10, 50, 90))
ANSWERS = np.array([[0, 1, 1], [1, 1, 1]]) > 0
PRICES = (0.0, 1e-6, 2e-5, 2e-4)
# Agreement that is shown with a confidence of 0.9: above 0.99, 0.98, 0.96 and 0.82, from the most cautious price.
SEEN_IN_CALIBRATION = Calibration(400, (0, 3, 10, 60))
RAMP = tuple(float(step) for step in range(1, 65))


def logit(p):
    return np.log(p / (1 - p))


def default_agent(families=1):
    """Chances of 0.6, 0.9 and 0.99, and 1, 2 and 4 kB, which double with log2_aspect."""
    rising = np.diff([logit(each) for each in CHANCES])
    steps = np.log(np.expm1([1.0, *rising]))
    zeros = {"mean": (COUNT,), "w1": (1, COUNT, 1), "b1": (1, 1), "w_ease": (1, 1, families)}
    arrays = {name: np.zeros(shape) for name, shape in zeros.items()}
    arrays |= {"scale": np.ones(COUNT), "base": np.full((1, families), logit(CHANCES[0]) - 1)}
    arrays |= {"steps": np.tile(steps, (1, families, 1)), "w_size": np.zeros((COUNT, 3 * families))}
    arrays |= {"b_size": np.tile([10.0, 11.0, 12.0], families)}
    arrays["w_size"][NAMES.index("log2_aspect")] = 1
    model = AgreementModel(**{name: array.astype(np.float32) for name, array in arrays.items()})
    return AgreementAgent(families, 3, model, None, Recollection(np.tile(ANSWERS, families)))


def published_agent():
    """Prefers the second of three actions, whatever it sees."""
    zeros = {"mean": (COUNT,), "w1": (COUNT, 1), "b1": (1,), "w2": (1, 1), "b2": (1,), "w3": (1, 1), "b3": (1,)}
    arrays = {name: np.zeros(shape, np.float32) for name, shape in zeros.items()}
    arrays |= {"scale": np.ones(COUNT, np.float32), "w4": np.zeros((1, 3), np.float32)}
    network = QNetwork(**arrays, b4=np.array([0, 5, 1], np.float32))
    return DQNAgent(network, 3, how=DQN(hidden=(1, 1, 1)))


def image(log2_aspect):
    """What is seen of an image of 2 ** 20 bytes."""
    seen = np.zeros(COUNT, np.float32)
    for name, value in (("log2_pixels", 20), ("log2_bits_per_pixel", 3), ("log2_aspect", log2_aspect)):
        seen[NAMES.index(name)] = value
    return seen


SMALL, LARGE = image(-1), image(2)


def saved(folder, agent=None, space=ANNEXK, calibration=SEEN_IN_CALIBRATION, promise=0.97, prices=PRICES):
    """The folder of a policy."""
    made = PolicyArtefact(
        space=space,
        agent=agent or default_agent(),
        sight=Sight(),
        settings=prices,
        calibration=calibration,
        promise=calibration.promise(promise, 0.9),
        backends=(("litert", "abc"),),
        encoder={},
        top=5,
        baseline=None,
        data={},
        versions={},
    )

    def write(name, data):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)

    artefact.save(made, write)
    return str(folder)


def published(folder):
    return saved(folder, published_agent(), calibration=Calibration(400, (60,)), prices=(0.0,))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"policy": ""}, "^policy must be a folder, or default, and is empty$"),
        ({"agreement": 0.0}, r"^agreement must be above 0 and below 1, got 0\.0$"),
        ({"agreement": 1}, "^agreement must be above 0 and below 1, got 1$"),
        ({"confidence": 1.0}, r"^confidence must be above 0 and below 1, got 1\.0$"),
        ({"confidence": 0}, "^confidence must be above 0 and below 1, got 0$"),
        ({"explore": -0.1}, r"^explore must be at least 0 and below 1, got -0\.1$"),
        ({"explore": 1}, "^explore must be at least 0 and below 1, got 1$"),
    ],
)
def test_how_no_policy_can_be_used(given, message):
    with pytest.raises(ValueError, match=message):
        Serving(**given)


def test_where_a_policy_is():
    assert Serving("gs://bucket/p").path == "gs://bucket/p"
    assert Serving().path.endswith("beam_adacompress/policy/default")
    with pytest.raises(AdaCompressError, match=r"nowhere/policy\.json cannot be read: No such file or directory"):
        Serving("nowhere").load()


@pytest.mark.parametrize(
    ("agreement", "setting", "actions"),
    [
        (None, 1, [2, 2]),  # which is 0.97
        (0.99, 0, [learned.ORIGINAL_ACTION] * 2),
        (0.97, 1, [2, 2]),
        (0.95, 2, [2, 1]),
        (0.8, 3, [1, 0]),
    ],
)
def test_it_chooses_as_it_was_calibrated(tmp_path, agreement, setting, actions):
    policy = Serving(saved(tmp_path), agreement).load()
    assert policy.promise.setting == setting
    assert policy.promise.target == (agreement or 0.97)
    assert policy.warning() is None
    seen = np.stack([SMALL, LARGE])
    chosen = learned.choose(default_agent().model, seen, np.full(2, 2.0**20), PRICES[setting])
    assert chosen.action.tolist() == actions
    original = Choice("original", 100, policy.version, 1.0, 1.0)
    every = [
        *(Choice("annexk", quality, policy.version, 1.0, pytest.approx(chance)) for quality, chance in EACH),
        original,
    ]
    assert [policy.choose(row, "a.jpg") for row in seen] == [every[action] for action in actions]
    assert policy.version.startswith("agreement-")


EACH = list(zip((10, 50, 90), CHANCES))


def test_more_confidence_is_more_caution(tmp_path):
    path = saved(tmp_path)
    assert Serving(path, 0.97, confidence=0.9).load().promise.setting == 1
    assert Serving(path, 0.97, confidence=0.9999).load().promise.setting == 0


def test_what_it_knows_for_a_search(tmp_path):
    policy = Serving(saved(tmp_path)).load()
    assert np.array_equal(policy.recollection.answers, ANSWERS)
    assert policy.sizes(SMALL).tolist() == [512, 1024, 2048]
    assert policy.sizes(LARGE).tolist() == [4096, 8192, 16384]
    assert policy.actions == [("annexk", 10), ("annexk", 50), ("annexk", 90)]
    assert policy.left_alone(0.5) == Choice("original", 100, policy.version, 0.5, 1.0)


def test_more_than_it_can_promise_leaves_everything_as_it_is(tmp_path):
    policy = Serving(saved(tmp_path), 0.999).load()
    choices = {policy.choose(seen, f"{index}.jpg") for index in range(100) for seen in (SMALL, LARGE)}
    assert choices == {Choice("original", 100, policy.version, 1.0, 1.0)}
    assert policy.warning() == (
        f"the policy {policy.version} cannot promise an agreement of 0.999 with a confidence of 0.9: 400 calibration "
        "images do not show it, so every image is left as it is; ask for less (--agreement), or train it on more images"
    )


def test_a_policy_that_was_trained_to_promise_more_than_it_can_says_so(tmp_path):
    path = saved(tmp_path, promise=0.999)
    policy = Serving(path).load()
    assert policy.choose(SMALL, "a.jpg") == policy.left_alone()
    assert "an agreement of 0.999 with a confidence of 0.9" in policy.warning()
    assert "so every image is left as it is; ask for less" in policy.warning()
    less = Serving(path, 0.95).load()
    assert less.warning() is None
    assert less.choose(SMALL, "a.jpg").quality == 90


def test_the_published_agent_promises_nothing(tmp_path):
    policy = Serving(published(tmp_path)).load()
    assert policy.version.startswith("dqn-")
    assert policy.choose(SMALL, "a.jpg") == Choice("annexk", 50, policy.version, 1.0, None)
    assert policy.recollection is None
    assert "400 calibration images do not show it, so no agreement is promised; ask for less" in policy.warning()


def test_the_published_agent_may_be_asked_for_a_promise(tmp_path):
    path = published(tmp_path)
    asked = Serving(path, 0.95).load()
    assert asked.choose(SMALL, "a.jpg") == asked.left_alone()
    assert "so every image is left as it is" in asked.warning()
    assert Serving(path, 0.8).load().choose(SMALL, "a.jpg").quality == 50


def steps_of(choice):
    """Luminance steps of the file that an encoder makes by a choice."""
    made = jpeg.compress(
        encoded(picture()), choice.tables, choice.quality, "p", jpeg.Settings(align=False, min_saving=0)
    )
    return jpeg.open_image(made.data).luma_steps()


@pytest.mark.parametrize("name", ["mine", "annexk"])
def test_families_of_the_policy_are_known_to_encoders(tmp_path, name):
    mine = Family(name, RAMP, RAMP)
    path = saved(tmp_path / "p", default_agent(2), ActionSpace((mine, family("robidoux")), (10, 50, 90)))
    policy = Serving(path + "/", 0.8).load()
    (own, _), (known, _) = policy.actions[0], policy.actions[3]
    assert own.startswith(f"{path}/tables/{name}-")
    assert known == "robidoux"
    choice = policy.choose(SMALL, "a.jpg")
    assert choice[:2] == (own, 50)
    assert steps_of(choice) == mine.at(50).luma
    assert steps_of(choice) != family("annexk").at(50).luma
    assert steps_of(policy.choice(4, 1.0, None)) == family("robidoux").at(50).luma


def test_a_bundled_family_is_known_by_its_name(tmp_path):
    path = saved(tmp_path)
    assert not (tmp_path / "tables").exists()
    choice = Serving(path).load().choose(SMALL, "a.jpg")
    assert choice.tables == "annexk"
    assert steps_of(choice) == family("annexk").at(90).luma


def test_what_looks_at_images_for_it(tmp_path):
    found = onlooker(Serving(saved(tmp_path), 0.95))
    opened = jpeg.open_image(encoded(picture()))
    seen = found.look(opened, jpeg.open_picture(opened))
    assert np.array_equal(seen, features(opened, jpeg.open_picture(opened)))
    assert seen.dtype == np.float32
    assert found.policy.choose(seen, "a.jpg").policy_version == found.policy.version


def test_who_it_is_in_words(tmp_path):
    policy = Serving(saved(tmp_path), 0.95).load()
    assert policy.described() == (
        f"the policy {policy.version}, which promises an agreement of 0.95 with litert on images like those that it "
        "was calibrated on (confidence 0.9, 400 images)"
    )
    nothing = Serving(str(tmp_path), 0.999).load()
    assert nothing.described() == f"the policy {nothing.version}, which promises nothing here"
