"""Policies: what decides on the JPEG configuration of an image."""

from beam_adacompress.policy.fixed import DEFAULT_QUALITY, FixedPolicy

__all__ = ["DEFAULT_QUALITY", "FixedPolicy"]
