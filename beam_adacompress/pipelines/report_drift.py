"""Drift, looked for once more in the scores of a run that kept no estimates."""

from __future__ import annotations

from typing import Optional

from beam_adacompress.drift import Level, Rates
from beam_adacompress.drift.estimate import Observation, Window, level_of
from beam_adacompress.drift.watch import Watch, Watching
from beam_adacompress.errors import AdaCompressError
from beam_adacompress.policy import artefact
from beam_adacompress.policy.policies import Serving
from beam_adacompress.report.timeline import Timeline
from beam_adacompress.transforms import files
from beam_adacompress.transforms.drift import EstimateDrift

_STEPS = 48  # states that a course is made of


class Observed(Window):
    """The observations of a run, the most recent ones where they are many."""


def watch(policy: str, observed: Observed, timeline: Timeline) -> Optional[float]:
    """Adds the states that the default detector would have been in.

    Args:
      policy: folder of the policy that chose.
      observed: what its scores say.
      timeline: to add to.

    Returns:
      The agreement that the policy has to keep; None where it cannot be read any more, or says nothing of it, and then
      nothing is added.
    """
    try:
        loaded, version = artefact.load(Serving(policy).path, files.read)
        level = level_of(loaded)
    except AdaCompressError:
        return None
    observations = observed.ordered()

    def level_of_version(name: str) -> Optional[Level]:
        return level if name == version else None

    watching = Watch(Watching(EstimateDrift.detector, {}, Rates()), level_of_version)
    size = max(1, len(observations) // _STEPS)
    for start in range(0, len(observations), size):
        some: list[Observation] = observations[start : start + size]
        estimate = watching.take("", None, some)
        if estimate is not None and estimate.n:
            timeline.add_state(estimate.start, estimate.end, estimate.state)
    return level.agreement
