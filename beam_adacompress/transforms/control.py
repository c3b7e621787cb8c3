"""What the drift stage of a streaming job advises, in a file that the workers upstream of it look at.

    ROOT/STATE    {"state": ..., "sample_rate": ..., "explore": ..., "policy_version": ...}

The last one that is written stands; a job has one stage that writes it.
"""

from collections.abc import Mapping
from typing import Any, Optional

from beam_adacompress.drift.contract import ESTIMATE, INFERENCE, RETRAIN
from beam_adacompress.drift.loop import Advice
from beam_adacompress.errors import AdaCompressError
from beam_adacompress.transforms import files
from beam_adacompress.transforms.documents import Kind, scratch

_KIND = Kind("STATE", "drift-state", 1, "delete it, the job writes it again")


def write_control(root: str, advice: Advice) -> None:
    """Writes the advice, in one step.

    Args:
      root: the folder of the published policies.
      advice: of the drift stage.

    Raises:
      AdaCompressError: it cannot be written.
    """
    path = _KIND.path(root)
    try:
        files.write(path, _KIND.encoded(advice._asdict()), scratch(root), "application/json")
    except OSError as error:
        raise AdaCompressError(f"the state of drift {path} cannot be written: {error.strerror or error}") from error


def read_control(root: str) -> Optional[Advice]:
    """The advice; None where there is none.

    Raises:
      AdaCompressError: it cannot be read, is damaged, or is of an unknown version.
    """
    return _KIND.read(root, _advice)


def _advice(content: Mapping[str, Any], token: str) -> Advice:
    found = Advice(
        str(content["state"]),
        float(content["sample_rate"]),
        float(content["explore"]),
        str(content["policy_version"]),
    )
    if found.state not in (INFERENCE, ESTIMATE, RETRAIN):
        raise ValueError(f"there is no state {found.state!r}")
    if not (0 <= found.sample_rate <= 1 and 0 <= found.explore < 1):
        raise ValueError(f"sample_rate is {found.sample_rate} and explore is {found.explore}")
    return found
