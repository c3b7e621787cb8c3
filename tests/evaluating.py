"""Evaluations for tests: backends, photographs and policies for `adacompress evaluate`."""

from __future__ import annotations

import dataclasses
import hashlib
import io
from typing import ClassVar

import numpy as np
import pytest
from backends import Texture
from conftest import IN_PROCESS, encoded, picture
from PIL import Image

from beam_adacompress import evaluation, jpeg
from beam_adacompress.artefacts import read_local
from beam_adacompress.backends import Terms, registry
from beam_adacompress.backends.network import Network
from beam_adacompress.pipelines import cli
from beam_adacompress.policy import artefact
from beam_adacompress.policy.actions import action_space
from beam_adacompress.policy.agreement import AgreementModel
from beam_adacompress.policy.artefact import PolicyArtefact
from beam_adacompress.policy.calibration import Calibration
from beam_adacompress.policy.dqn import DQNAgent, QNetwork
from beam_adacompress.policy.features import NAMES
from beam_adacompress.policy.fit_dqn import DQN
from beam_adacompress.policy.learned import AgreementAgent
from beam_adacompress.policy.lookahead import Sight
from beam_adacompress.policy.outcomes import part_of
from beam_adacompress.policy.search import Recollection
from beam_adacompress.policy.verify import LADDER

COUNT = len(NAMES)
IMAGES = 60
SEED = 3
TWO = action_space(["annexk", "deepn"], [10, 45])  # 45 is in LADDER
ONE = action_space(["annexk"], [10, 45])
TRIED = len(LADDER) + 3 + 1  # of the standard tables also quality 10, DeepN's two, and quality 95
CALIBRATION = Calibration(400, (4,))  # shows 0.97, not 0.99


@dataclasses.dataclass
class Downwards(Texture):
    """Sees how rough the four quarters are from top to bottom."""

    @property
    def terms(self):
        return dataclasses.replace(super().terms, name="downwards")

    def _label(self, data):
        return super()._label(turned(data))


def turned(data):
    buffer = io.BytesIO()
    Image.open(io.BytesIO(data)).convert("RGB").transpose(Image.Transpose.ROTATE_90).save(buffer, "PNG")
    return buffer.getvalue()


@dataclasses.dataclass
class Blind(Texture):
    """Sees nothing in anything."""

    @property
    def terms(self):
        return dataclasses.replace(super().terms, name="blind")

    def label(self, images, timeout):
        return [() for _ in images]


@dataclasses.dataclass
class Wide(Network):
    """A network whose one output is 1 for wide images and 0 for others."""

    name: ClassVar[str] = "wide"
    max_batch: ClassVar[int] = 1

    def open(self, read=read_local):
        self._names, self._logits = ["wide"], False
        self._terms = Terms("wide", "7", is_local=True)

    def look(self, data):
        return jpeg.open_image(data).width

    def scores(self, seen):
        return np.array([[float(width > 90)] for width in seen], np.float32)


@pytest.fixture(scope="module", autouse=True)
def backends():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.BACKENDS, "texture", f"{Texture.__module__}:Texture")
        for kind in (Downwards, Blind, Wide):
            patch.setitem(registry.BACKENDS, kind.__name__.lower(), f"{__name__}:{kind.__name__}")
        yield


def photograph(width, seed):
    """A picture whose quarters differ in how rough they are."""
    random = np.random.default_rng(seed)
    rough = np.kron(random.uniform(2, 16, (2, 2)), np.ones((32, width // 2)))
    noise = rough[..., None] * random.normal(0, 1, (64, width, 3))
    return Image.fromarray(np.clip(np.asarray(picture(width, 64, seed=seed)) + noise, 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    for seed in range(IMAGES):
        data = encoded(photograph(80 + 8 * (seed % 3), seed), quality=95)
        if seed % 4 == 0:  # compressed as hard and as well as can be
            shown = jpeg.open_picture(jpeg.open_image(data))
            data = shown.encode(jpeg.quantisation("annexk", 30), jpeg.Settings())
        (folder / f"{seed:02d}.jpg").write_bytes(data)
    return folder


def remembering(families=2):
    """Takes the last quality of the first family: chances of 0.6 and 0.99, and 256 and 512 bytes, for every image."""
    base, step = np.log(0.6 / 0.4), np.log(99) - np.log(0.6 / 0.4)
    arrays = {"mean": np.zeros(COUNT), "scale": np.ones(COUNT), "w1": np.zeros((1, COUNT, 1)), "b1": np.zeros((1, 1))}
    arrays |= {"w_ease": np.zeros((1, 1, families)), "base": np.full((1, families), base - 1)}
    arrays |= {"steps": np.tile(np.log(np.expm1([1.0, step])), (1, families, 1))}
    arrays |= {"w_size": np.zeros((COUNT, 2 * families)), "b_size": np.tile([8.0, 9.0], families)}
    model = AgreementModel(**{name: array.astype(np.float32) for name, array in arrays.items()})
    answers = np.tile(np.array([[0, 1], [1, 1], [0, 0]]) > 0, families)
    return AgreementAgent(families, 2, model, None, Recollection(answers))


def published(numbers=COUNT, of_last=0.0):
    """Prefers the second of two actions, unless `of_last` times the last number is above 1: then the first."""
    w1 = np.zeros((numbers, 1), np.float32)
    w1[-1] = of_last
    ones = {name: np.ones((1, 1), np.float32) for name in ("w2", "w3")}
    biases = {name: np.zeros(1, np.float32) for name in ("b1", "b2", "b3")}
    scaling = {"mean": np.zeros(numbers, np.float32), "scale": np.ones(numbers, np.float32)}
    w4, b4 = np.array([[1, 0]], np.float32), np.array([0, 1], np.float32)
    return DQNAgent(QNetwork(w1=w1, **ones, **biases, **scaling, w4=w4, b4=b4), 2, how=DQN(hidden=(1, 1, 1)))


def saved(folder, agent, space, **changes):
    defaults = {
        "space": space,
        "agent": agent,
        "sight": Sight(),
        "settings": (1e-4,),
        "calibration": CALIBRATION,
        "promise": CALIBRATION.promise(0.97),
        "backends": (("texture?path=elsewhere", "1"),),
        "encoder": {"subsampling": "4:2:0", "optimize": True, "progressive": True},
        "top": 1,
        "baseline": None,
        "data": {"images": 100, "sha256": "ff", "seed": SEED},
        "versions": {},
    }
    folder.mkdir(parents=True)
    made = PolicyArtefact(**{**defaults, **changes})
    artefact.save(made, lambda name, data: (folder / name).write_bytes(data) and None)
    return str(folder)


@pytest.fixture(scope="module")
def policies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policies")
    return [saved(folder / "mine", remembering(), TWO), saved(folder / "theirs", published(), ONE)]


@pytest.fixture
def mine(policies):
    return policies[0]


def command(photographs, output, policies, backends, *options):
    arguments = ["--input", str(photographs), "--output", str(output), "--samples=100", "--top=1", *IN_PROCESS]
    chosen = [f"--policy={policy}" for policy in policies]
    return cli.main(["evaluate", *arguments, *chosen, *(f"--backend={each}" for each in backends), *options])


def split_of(photographs, *seeds):
    """The files that trainings with these seeds kept for testing, by the bytes in them."""
    return [
        path
        for path in sorted(photographs.iterdir())
        if {part_of(hashlib.sha256(path.read_bytes()).hexdigest(), str(seed)) for seed in seeds} == {"test"}
    ]


def read(output):
    return evaluation.from_json((output / "evaluation.json").read_bytes(), "evaluation.json")


def calls_for(files):
    """How often a backend is asked about files: once about each, and once about each different one made of it."""
    tried = [("annexk", quality, aligns) for quality in LADDER for aligns in (True, False)]
    tried += [("annexk", 10, True), ("annexk", 95, False), ("deepn", 10, True), ("deepn", 45, True)]
    calls = 0
    for data in files:
        shown = jpeg.open_picture(jpeg.open_image(data))
        made = (shown.encode(jpeg.quantisation(name, at), jpeg.Settings(align=aligns)) for name, at, aligns in tried)
        calls += len({data, *made})
    return calls


def asked(path):
    return path.read_text().splitlines()
