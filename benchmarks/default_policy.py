"""Trains the policy that comes with the package.

    python benchmarks/default_policy.py --images PHOTOGRAPHS... --models NETWORKS.tflite...

All networks have to agree. Three of the families were searched on one half of each folder's images (a hash of the name
halves them, as in benchmarks/tables.py), so the policy learns from that half and is calibrated on the other one. What
`adacompress evaluate --split test` would take of either is used for neither, but for the policy's baseline. Answers
are kept in the cache, so a training that was stopped goes on.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
from judgements import answers

from beam_adacompress.jpeg.tables import LEARNABLE
from beam_adacompress.pipelines.train_job import TrainJob
from beam_adacompress.policy import artefact, judging
from beam_adacompress.policy.fit_agreement import Training
from beam_adacompress.policy.lookahead import Sight
from beam_adacompress.policy.outcomes import TEST, outcomes, part_of
from beam_adacompress.policy.training import Parts, policy_of
from beam_adacompress.sampling import draw

OUTPUT = Path(artefact.__file__).parent / "default"
VALIDATE = 0.15  # of the images that train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, nargs="+", required=True, help="folders of photographs")
    parser.add_argument("--models", type=Path, nargs="+", required=True, help="LiteRT classifiers")
    parser.add_argument("--agreement", type=float, default=0.97, help="to promise")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    uris = [f"litert:{model}" for model in options.models]
    job = TrainJob(str(options.images[0]), str(options.output), uris, agreement=options.agreement, tables=LEARNABLE)
    space = job.space()
    trials, place = answers(options.images, job)
    table = outcomes(trials, space.distinct()[1])
    written = judging.written(table, job.settings().min_saving)
    held = np.array([place[key].half for key in table.keys])
    tests = np.array([part_of(key, str(job.seed)) == TEST for key in table.keys])
    validates = np.array([draw(key, "default policy") < VALIDATE for key in table.keys])
    parts = Parts(
        table.take(np.flatnonzero(~held & ~tests & ~validates)),
        table.take(np.flatnonzero(~held & ~tests & validates)),
        written.take(np.flatnonzero(held & ~tests)),
        written.take(np.flatnonzero(held & tests)),
    )
    backends = {(trial.backend, trial.backend_version) for trial in trials}
    made = policy_of(parts, space, Sight(), backends, job.encoder(), job.learning())
    shutil.rmtree(options.output, ignore_errors=True)
    options.output.mkdir(parents=True)
    version = artefact.save(made, lambda name, data: (options.output / name).write_bytes(data) and None)
    size = sum(file.stat().st_size for file in options.output.rglob("*"))
    print(f"{version}, {size} bytes: {parts.said()}, ensembles of {Training().members}")
    print(f"promise: {made.promise}")
    print(f"on images that neither trained nor calibrated it: {made.baseline}")


if __name__ == "__main__":
    main()
