"""A day's images, as a scheduled job: shrink them, score a sample, train the policy again if it has drifted.

    python examples/daily.py --photos gs://my-bucket/photos --out gs://my-bucket/small \
        --policies gs://my-bucket/policies --backend google-vision --max-cost 5

PHOTOS/2025-03-31/ becomes OUT/2025-03-31/, by the latest of the published policies; where nothing is published yet,
the one that comes with the package is published first. All other options are those of `adacompress compress`, Beam's
among them; the policy is trained on this machine, which takes a minute and Keras. Started again for a day, it goes on
where it was stopped. A day that did not run at all is caught up with `--day`.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Sequence

from beam_adacompress.pipelines import cli
from beam_adacompress.transforms import files, publishing


def main(argv: Sequence[str]) -> int:
    """Runs a day, and returns the exit status of the command that failed, or 0."""
    parser = argparse.ArgumentParser(
        description="Shrink a day's images, and keep the policy up to date.", allow_abbrev=False
    )
    for name in ("photos", "out", "policies", "backend"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--day", type=datetime.date.fromisoformat, default=datetime.date.today(), metavar="YYYY-MM-DD")
    given, more = parser.parse_known_args(argv)
    output = files.join(given.out, str(given.day))
    compress = [
        "compress",
        f"--input={files.join(given.photos, f'{given.day}*', '**')}",  # a glob, so that the day is a part of the keys
        f"--output={output}",
        f"--policy={given.policies}",
        "--explore=0.1",
        f"--score-with={given.backend}",
        *more,
    ]
    retrain = [
        "retrain",
        f"--scores={files.join(given.out, '*', 'score', 'scores', '*.parquet')}",  # of all days
        f"--publish={given.policies}",
        "--only-on-drift",
    ]
    steps = [compress, retrain]
    if files.exists(files.join(output, "score", "summary.json")):  # another policy may be the latest by now
        steps.remove(compress)
    if publishing.latest(given.policies) is None:
        steps.insert(0, ["policy", "publish", "default", given.policies])
    for step in steps:
        if status := cli.main(step):
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
