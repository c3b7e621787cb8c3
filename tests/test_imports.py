"""What each part loads: nothing heavy before it is needed. One process takes the parts one after the other."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PARTS = {
    "workers": "import beam_adacompress.transforms",
    "looking ahead": "import beam_adacompress.policy.lookahead",
    "policies": "import beam_adacompress.policy.policies",
    "artefacts": "import beam_adacompress.policy.artefact",
    "predicting": "import beam_adacompress.policy.agreement",
    "acting and restoring": "from beam_adacompress.policy import dqn, fit_dqn; dqn.DQNAgent().settings()",
    "receptive fields": "import beam_adacompress.dct_networks as n; n.receptive_fields('Late-Concat-RFA')",
    "compressing and retraining": "from beam_adacompress.pipelines import compress, retrain",
}
# Beam itself loads boto3 where that is installed.
HEAVY = {"tensorflow", "keras", "jax", "torch", "ai_edge_litert", "sklearn", "river", "scipy"}

PROGRAM = """
import json, sys
for part in json.loads(sys.argv[1]):
    exec(part)
    print(json.dumps(sorted(sys.modules)))
"""


@pytest.fixture(scope="module")
def loaded():
    """All modules that are loaded after each part."""
    command = [sys.executable, "-c", PROGRAM, json.dumps(list(PARTS.values()))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(zip(PARTS, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("part", PARTS)
def test_nothing_heavy_is_loaded(loaded, part):
    assert "apache_beam" in loaded[part]
    assert HEAVY & set(loaded[part]) == set()


def test_retraining_is_loaded_all_the_same(loaded):
    assert "beam_adacompress.policy.retraining" in loaded["compressing and retraining"]
