"""Learning as TensorBoard shows it: after every epoch, what the policy would come to on the images that validate.

Epoch, Progress ─▶ Watching ─┬▶ scalars: agreement, size ratio, reward
                             └▶ picture: rate against agreement, beside the fixed qualities
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Optional

import numpy as np
from numpy.typing import NDArray

from beam_adacompress import plots_of_learning
from beam_adacompress.event_log import EventLog
from beam_adacompress.jpeg import Settings
from beam_adacompress.jpeg.tables import ANNEXK
from beam_adacompress.plots_of_learning import Point
from beam_adacompress.policy import judging, learned
from beam_adacompress.policy.actions import Action, ActionSpace
from beam_adacompress.policy.agent import Agent
from beam_adacompress.policy.agreement import AgreementModel, Predicted
from beam_adacompress.policy.outcomes import Outcomes

if TYPE_CHECKING:  # they import Keras where they learn
    from beam_adacompress.policy.fit_agreement import Epoch
    from beam_adacompress.policy.fit_dqn import Progress

PICTURE = "rate against agreement"
EVERY = 100  # steps of AdaCompress's agent from one picture to the next, over which its own means are as well


class Came(NamedTuple):
    """What a policy comes to on the images that validate."""

    agreement: float  # 0..1
    size_ratio: float  # mean over images

    @property
    def reward(self) -> float:
        """Agreement - size ratio."""
        return self.agreement - self.size_ratio


class Watching:
    """Watches learning.

    Args:
      logs: folder for TensorBoard; None: nothing is written.
      validate: the images, under every action; what would not be worth it is kept, as `adacompress compress` does.
      space: of the actions.
      prices: of a byte, for the curve.

    Raises:
      AdaCompressError: tensorboard is not installed.
    """

    def __init__(self, logs: Optional[str], validate: Outcomes, space: ActionSpace, prices: Sequence[float]) -> None:
        self._logs = None if logs is None else logs.rstrip("/")
        self._images = judging.written(validate, Settings.min_saving)
        self._prices = prices
        self._fixed: list[Point] = []
        if logs is not None and ANNEXK in [family.name for family in space.families]:
            columns = {quality: space.index(Action(ANNEXK, quality)) for quality in space.qualities}
            self._fixed = [
                Point(str(quality), *self._of(np.full(len(validate.keys), column, np.intp)))
                for quality, column in columns.items()
            ]
        self._log = EventLog(None)
        self._part = ""

    def of_epoch(self, epoch: Epoch) -> None:
        """One network after an epoch, as if it alone chose whatever it holds to have the highest reward."""
        if self._logs is None:
            return
        losses = {"loss": epoch.loss, "validation_loss": epoch.validation_loss}
        self._scalars(f"member-{epoch.member}", epoch.epoch, self._greedy(epoch.model), **losses)
        curve = self._curve(epoch.model)
        title = f"network {epoch.member + 1}, epoch {epoch.epoch}"
        self._log.picture(epoch.epoch, PICTURE, plots_of_learning.picture(title, curve, self._fixed))

    def of_progress(self, progress: Progress) -> None:
        """AdaCompress's agent after it has learned from a batch, if it did not explore."""
        if self._logs is None:
            return
        action = progress.network.predict(self._images.features.astype(np.float32)).argmax(axis=1)
        came = self._of(action)
        self._scalars("validation", progress.step, came)
        if progress.step % EVERY == 0:
            title = f"step {progress.step} of {progress.steps}"
            picture = plots_of_learning.picture(title, [Point("", *came)], self._fixed)
            self._log.picture(progress.step, PICTURE, picture)

    def of_policy(self, agent: Agent, model: Optional[AgreementModel]) -> None:
        """The policy, at the setting that it is served with.

        Args:
          agent: that has learned.
          model: of it, whose other settings are drawn as well; None where it has none.
        """
        if self._logs is None:
            return
        came = self._of(judging.acted(agent, self._images))
        self._scalars("policy", 1, came)
        curve = [] if model is None else self._curve(model)
        title = "the policy: as it is served, and at its other settings" if curve else "the policy"
        picture = plots_of_learning.picture(title, curve, self._fixed, Point("", *came))
        self._log.picture(1, PICTURE, picture)

    def close(self) -> None:
        """Ends the logs."""
        self._log.close()

    def _scalars(self, part: str, step: int, came: Came, **more: float) -> None:
        if part != self._part:
            self._log.close()
            self._log, self._part = EventLog(f"{self._logs}/{part}"), part
        self._log.scalars(step, agreement=came.agreement, size_ratio=came.size_ratio, reward=came.reward, **more)

    def _of(self, action: NDArray[np.intp]) -> Came:
        came = judging.judged(self._images, action)
        return Came(float(came.agreement.mean()), float((came.sizes / self._images.bytes_in).mean()))

    def _greedy(self, model: AgreementModel) -> Came:
        predicted, bytes_in = self._predicted(model), self._images.bytes_in
        ratio = (predicted.size / bytes_in[:, None]).astype(np.float32)
        return self._of(learned.decide(Predicted(predicted.agreement, ratio), np.ones(len(bytes_in)), 1.0).action)

    def _curve(self, model: AgreementModel) -> list[Point]:
        predicted, bytes_in = self._predicted(model), self._images.bytes_in
        return [Point("", *self._of(learned.decide(predicted, bytes_in, price).action)) for price in self._prices]

    def _predicted(self, model: AgreementModel) -> Predicted:
        return model.predict(self._images.features.astype(np.float32))
