"""Options that several commands about policies have."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Optional

from apache_beam.options.pipeline_options import PipelineOptions

from beam_adacompress.pipelines.options import absolute, adder
from beam_adacompress.policy.policies import DEFAULT


class PolicyOptions(PipelineOptions):
    """Which policy chooses."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        adder(parser)(
            "--policy",
            action="append",
            metavar="FOLDER",
            help="the policy that chooses quality and tables of each image, as adacompress train wrote it, or a folder "
            "of published ones; default is the one that comes with this package (not given: that one). For evaluate, "
            "several may be given; for score, where the policy is that chose in the run, if it has moved",
        )


class PromiseOptions(PipelineOptions):
    """What a policy is to promise."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        add = adder(parser)
        add(
            "--agreement",
            type=float,
            metavar="SHARE",
            help="to promise, between 0 and 1 (not given: 0.97 for a policy in training, else what it was trained for)",
        )
        add(
            "--confidence",
            type=float,
            metavar="SHARE",
            help="of that promise, between 0 and 1 (not given: 0.95 for a policy in training, else that of training)",
        )


def policy_of(named: Optional[Sequence[str]]) -> Optional[str]:
    """The policy of a command that takes one.

    Raises:
      ValueError: several are named.
    """
    if named and len(named) > 1:
        raise ValueError(f"one policy chooses, and {len(named)} are given: {', '.join(named)}")
    return located(named[0]) if named else None


def located(policy: str) -> str:
    """The folder of a policy, absolute; `default` stays."""
    return policy if policy in ("", DEFAULT) else absolute(policy)
