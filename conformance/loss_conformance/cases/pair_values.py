"""Inputs of losses whose rows are whole pairs: one number per chosen and per rejected sequence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from loss_conformance.cases.slot import Slot

if TYPE_CHECKING:
    from loss_conformance.cases.values import World

__all__ = ["PAIR_KINDS", "pair_value"]

PAIR_KINDS: Final = (
    "pair.policy_chosen_logps",
    "pair.policy_rejected_logps",
    "pair.policy_other_logps",
    "pair.reference_chosen_logps",
    "pair.reference_rejected_logps",
    "pair.reference_other_logps",
    "pair.chosen_rewards",
    "pair.rejected_rewards",
    "pair.margin",
)
"""Log-probabilities of whole sequences, reward-head outputs and annotated margins, one entry per pair."""


def pair_value(slot: Slot, world: World) -> Tensor:
    """Return [B] numbers for one of ``PAIR_KINDS``; row b is pair b."""
    side = slot.kind.removeprefix("pair.")
    if side in ("chosen_rewards", "rejected_rewards"):
        return world.row_scores()
    if side == "margin":
        return world.normal(world.rows).abs()
    whose, which, _ = side.split("_")
    policy, reference = _sequence_logps(world, which)
    return policy if whose == "policy" else reference


def _sequence_logps(world: World, which: str) -> tuple[Tensor, Tensor]:
    """Return (policy, reference) log-probabilities of the chosen, the rejected, or some other sequence of each pair."""
    policy = (world.logprobs * world.trained).sum(dim=1)
    reference = (world.reference_logprobs * world.trained).sum(dim=1)
    if which == "chosen":
        return policy, reference
    # A generator of its own: the same sequences whichever of the two is asked for first.
    generator = torch.Generator().manual_seed(world.plan.seed * 2 + (which == "rejected"))
    step = torch.randn(2, world.rows, generator=generator, dtype=torch.float64)
    spread = 0.0 if world.plan.regime == "ties" else 2.0
    # Reflected, not clamped: a probability of exactly 1 belongs to a regime of its own.
    moved = -(policy + spread * step[0]).abs()
    ratio = reference - policy if world.plan.regime in ("ties", "on_policy") else (reference - policy).abs() * step[1]
    return moved, -(moved + ratio).abs()
