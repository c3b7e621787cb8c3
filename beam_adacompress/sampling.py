"""Which images are scored: a hash of the key decides, so every retry and every worker decides alike.

A sample that follows the traffic hardly ever holds the actions that a policy takes rarely, and those are the ones
least known. So each action keeps a minimum share of the sample; the probability with which an image was sampled
stands in its score, and estimates weigh by it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from typing import Optional

from beam_adacompress.records import Choice


def draw(key: str, salt: str) -> float:
    """A number in [0, 1) that depends on the key and the salt alone, uniform over keys."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8, key=salt.encode()[:64]).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


def action_of(choice: Choice) -> str:
    """What an action is called, e.g. `annexk-35`."""
    return f"{choice.tables}-{choice.quality}"


def action_rates(images: Mapping[str, float], rate: float, min_share: float) -> dict[str, float]:
    """Sampling rates of the actions that give each of them at least a share of the sample.

    The expected size of the sample stays `rate` times the images: what rare actions gain, frequent ones lose. An
    action with fewer images than its share is sampled in full.

    Args:
      images: images (or their shares) by action.
      rate: of all images, 0..1.
      min_share: of the sample, that each action keeps; with more than 1 / min_share actions all get the same share.

    Returns:
      Rates by action, 0..1.
    """
    total = sum(images.values())
    wanted = rate * total
    floor = wanted * min(min_share, 1 / max(1, len(images)))
    sampled = {action: min(count, floor) for action, count in images.items()}
    # The rest of the sample goes to the actions above their floor, in proportion to their images.
    above = {action: count for action, count in images.items() if rate * count > floor}
    rest = wanted - sum(sampled[action] for action in images if action not in above)
    of_rest = sum(above.values())
    while above and (low := [action for action in above if rest * above[action] / of_rest < floor]):
        for action in low:
            of_rest -= above.pop(action)
            rest -= sampled[action]
    sampled.update({action: rest * count / of_rest for action, count in above.items()})
    return {action: min(1.0, sampled[action] / count) if count else 0.0 for action, count in images.items()}


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Decides which images are scored.

    Args:
      rate: share of the images that is sampled, 0..1.
      min_action_share: share of the sample that each action keeps, 0..1.
      action_shares: share of the images by action, where known, e.g. from a manifest; actions that are not listed
        are rarer than all that are.
      salt: another salt samples other images.

    Raises:
      ValueError: an argument is out of range.
    """

    rate: float = 0.1
    min_action_share: float = 0.02
    action_shares: Optional[Mapping[str, float]] = None
    salt: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise ValueError(f"sample_rate must be from 0 to 1, got {self.rate}")
        if not 0 <= self.min_action_share <= 1:
            raise ValueError(f"min_action_share must be from 0 to 1, got {self.min_action_share}")
        if self.action_shares and (wrong := {a: share for a, share in self.action_shares.items() if share < 0}):
            raise ValueError(f"action_shares must not be negative, got {wrong}")

    @functools.cached_property
    def _rates(self) -> Mapping[str, float]:
        return action_rates(self.action_shares or {}, self.rate, self.min_action_share)

    def probability(self, choice: Choice) -> float:
        """The probability with which an image with this choice is sampled.

        Where the share of the action among the images is not known, its propensity stands for it: exploration that
        is rarer than `min_action_share` is sampled as much more often.
        """
        if (rate := self._rates.get(action_of(choice))) is not None:
            return rate
        highest = max(self._rates.values(), default=self.rate)
        return min(1.0, highest * max(1.0, self.min_action_share / choice.propensity))

    def samples(self, key: str, choice: Choice) -> bool:
        """Whether the image is sampled; the same at every call."""
        return draw(key, self.salt) < self.probability(choice)
