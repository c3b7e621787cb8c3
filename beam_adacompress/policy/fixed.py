"""The plainest policy: one JPEG configuration for every image."""

from __future__ import annotations

import dataclasses

from beam_adacompress.jpeg import tables
from beam_adacompress.records import Choice

# Quality 25 kept MobileNetV2's answer on 98.7 % of ordinary photographs; 35 leaves room for scenery that is harder.
DEFAULT_QUALITY = 35


@dataclasses.dataclass(frozen=True)
class FixedPolicy:
    """Chooses the same action for every image.

    Args:
      quality: 1 (smallest) to 100.
      tables: a quantisation-table family: a name in `jpeg.tables.FAMILIES`, or the path of a fitted one's file.

    Raises:
      TypeError: quality is not an integer.
      ValueError: quality is out of range, or the family is unknown.
    """

    quality: int = DEFAULT_QUALITY
    tables: str = tables.ANNEXK

    def __post_init__(self) -> None:
        tables.check_action(self.tables, self.quality)

    @property
    def version(self) -> str:
        """Names the policy in manifests and in the files that it made, e.g. `fixed-35`."""
        stem = self.tables.removesuffix(tables.SUFFIX).rpartition("/")[2]
        family = "" if self.tables == tables.ANNEXK else f"{stem}-"
        return f"fixed-{family}{self.quality}"

    def choose(self) -> Choice:
        return Choice(
            tables=self.tables,
            quality=self.quality,
            policy_version=self.version,
            propensity=1.0,
            expected_agreement=None,
        )
