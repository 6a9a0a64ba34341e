"""What the losses of reward models promise, each of them beside what it adds."""

from __future__ import annotations

from typing import Final

from loss_reference.contract import Contract

__all__ = ["REWARD_PAIRS"]

REWARD_PAIRS: Final = Contract(family="reward", level="pair", normalizer="global", lower_bound=0.0)
