"""What the tests of retraining share: a policy made by hand, and its scores in sceneries as hard as one likes."""

from __future__ import annotations

import numpy as np

from beam_adacompress.jpeg.tables import ORIGINAL
from beam_adacompress.policy.actions import action_space
from beam_adacompress.policy.agreement import AgreementModel
from beam_adacompress.policy.artefact import PolicyArtefact
from beam_adacompress.policy.calibration import Calibration
from beam_adacompress.policy.features import NAMES, source_bytes
from beam_adacompress.policy.learned import AgreementAgent, decide
from beam_adacompress.policy.lookahead import Sight
from beam_adacompress.records import SCORED, Choice, Score

VERSION = "agreement-incumbent"
SPACE = action_space(["annexk", "robidoux"], [10, 30, 60, 90])
ALONE = len(SPACE)  # the action that leaves an image as it is
FEATURES = len(NAMES)
EASE, PIXELS, DEPTH = NAMES.index("roughness_0.5"), NAMES.index("log2_pixels"), NAMES.index("log2_bits_per_pixel")
TARGET = 0.95
SETTINGS = (0.0, *np.geomspace(2e-8, 2e-4, 14).tolist())


def model() -> AgreementModel:
    """Rough images are easy; the second family agrees a little less and is a little smaller."""
    arrays = {"w1": (2, FEATURES, 2), "b1": (2, 2), "w_ease": (2, 2, 2), "w_size": (FEATURES, 8)}
    zeros = {name: np.zeros(shape, np.float32) for name, shape in arrays.items()}
    zeros["w1"][:, EASE] = [1, -1]
    zeros["w_ease"][:, 0], zeros["w_ease"][:, 1] = 1.5, -1.5
    zeros["w_size"][PIXELS] = 0.9
    return AgreementModel(
        mean=np.eye(FEATURES, dtype=np.float32)[PIXELS] * 17,
        scale=np.ones(FEATURES, np.float32),
        base=np.tile(np.array([0.0, -0.2], np.float32), (2, 1)),
        steps=np.tile(np.log(np.expm1([0.5, 1.5, 1.5, 2.0])), (2, 2, 1)).astype(np.float32),
        b_size=np.array([12.0, 13, 13.7, 15, 11.9, 12.9, 13.6, 14.9], np.float32),
        **zeros,
    )


def images(count: int, seed: int) -> np.ndarray:
    """What is seen of images of about 32 kB, `(images, features)`."""
    random = np.random.default_rng(seed)
    seen = random.normal(0, 0.5, (count, FEATURES))
    seen[:, PIXELS] = random.normal(17, 0.7, count)
    seen[:, DEPTH] = 1.0
    seen[:, EASE] = random.normal(0, 1, count)
    return seen


def chances(seen: np.ndarray, harder: float) -> np.ndarray:
    """How likely each action agrees in a scenery that is harder by so many logits, `(images, actions + 1)`."""
    agreement = model().predict(seen.astype(np.float32)).agreement.astype(np.float64)
    harder_ones = 1 / (1 + (1 - agreement) / agreement * np.exp(harder))
    return np.hstack([harder_ones, np.ones((len(seen), 1))])


def ratios(seen: np.ndarray) -> np.ndarray:
    """Size ratio of each action, `(images, actions + 1)`; what would not be smaller is left as it is."""
    bytes_in = source_bytes(seen)[:, None]
    size = model().predict(seen.astype(np.float32)).size
    return np.minimum(1, np.hstack([size, bytes_in]) / bytes_in)


def decisions(of: AgreementModel, seen: np.ndarray, price: float | None) -> np.ndarray:
    """The action that is chosen for each image."""
    action = decide(of.predict(seen.astype(np.float32)), source_bytes(seen), price).action
    return np.where(action < 0, ALONE, action)


def policy(calibrated: int = 2000, **changes: object) -> PolicyArtefact:
    """The incumbent, at home where nothing is harder."""
    seen, each = images(calibrated, 1), np.arange(calibrated)
    right = np.random.default_rng(2).uniform(size=(calibrated, 1)) < chances(seen, 0)
    wrong = [int((~right[each, decisions(model(), seen, price)]).sum()) for price in SETTINGS]
    calibration = Calibration(calibrated, tuple(wrong))
    promise = calibration.promise(TARGET, 0.95)
    price = None if promise.setting is None else SETTINGS[promise.setting]
    made = {
        "space": SPACE,
        "agent": AgreementAgent(2, 4, model(), price),
        "sight": Sight(),
        "settings": SETTINGS,
        "calibration": calibration,
        "promise": promise,
        "backends": (("litert:one.tflite", "1"),),
        "encoder": {"subsampling": "4:2:0"},
        "top": 5,
        "baseline": None,
        "data": {"images": 1, "seed": 0, "sha256": "ff"},
        "versions": {},
    }
    return PolicyArtefact(**(made | changes))


def score(key: str = "a", tables: str = "annexk", quality: int = 30, **changes: object) -> Score:
    """A score of an image that agreed at a fifth of its bytes."""
    made = Score(
        key=key,
        choice=Choice(tables, quality, VERSION, 0.5, None),
        features=images(1, 0)[0].tolist(),
        propensity=0.5,
        sampling_probability=1.0,
        status=SCORED,
        reference_labels=(),
        compressed_labels=(),
        agreement=1,
        strict_agreement=1,
        size_ratio=0.2,
        reward=0.8,
        backend="litert:one.tflite",
        backend_version="1",
        latency=None,
        cost=0.0,
        time=1.0,
    )
    return made._replace(**changes)


def scores(of: PolicyArtefact, count: int, seed: int, harder: float = 0.0, explore: float = 0.5) -> list[Score]:
    """What is logged of a policy that explores its settings, each alike."""
    random = np.random.default_rng(seed)
    seen, each = images(count, seed + 1000), np.arange(count)
    tried = np.stack([decisions(of.agent.learned, seen, price) for price in of.settings], axis=1)
    served = decisions(of.agent.learned, seen, of.agent.price)
    drawn = tried[each, random.integers(tried.shape[1], size=count)]
    action = np.where(random.uniform(size=count) < explore, drawn, served)
    propensity = (1 - explore) * (action == served) + explore * (tried == action[:, None]).mean(axis=1)
    agreed = random.uniform(size=count) < chances(seen, harder)[each, action]
    ratio = ratios(seen)[each, action]
    return [
        score(
            f"image {seed} {row}",
            *(SPACE[action[row]] if action[row] < ALONE else (ORIGINAL, 100)),
            features=seen[row].tolist(),
            propensity=float(propensity[row]),
            agreement=int(agreed[row] or ratio[row] == 1),
            size_ratio=float(ratio[row]),
            time=float(row),
        )
        for row in range(count)
    ]


def comes_to(of: PolicyArtefact, harder: float) -> tuple[float, float]:
    """True agreement and size ratio of a policy, as it serves."""
    seen = images(20_000, 99)
    each, action = np.arange(len(seen)), decisions(of.agent.learned, seen, of.agent.price)
    ratio = ratios(seen)[each, action]
    right = np.where(ratio == 1, 1.0, chances(seen, harder)[each, action])
    return float(right.mean()), float(ratio.mean())
