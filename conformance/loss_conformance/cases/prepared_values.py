"""Inputs a trainer prepares before it calls the loss: top-k log-probabilities of student and teacher, and an entropy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from loss_conformance.cases.slot import Slot

if TYPE_CHECKING:
    from loss_conformance.cases.values import World

__all__ = ["prepared_value"]


def prepared_value(slot: Slot, world: World) -> Tensor:
    """Return the tensor for a kind ``"prepared.…"``, aligned as the slot says; both policies are normalised over the top k."""
    name = slot.kind.removeprefix("prepared.")
    values, indices = world.teacher_top_k
    if name == "teacher_topk_logprobs":
        return world.aligned(values.log_softmax(-1), slot)
    if name == "student_topk_logprobs":
        return world.aligned(world.logits.gather(-1, indices).log_softmax(-1), slot)
    assert name == "negative_entropy"
    logprobs = world.logits.log_softmax(-1)
    # p log p is 0 where p is.
    terms = torch.where(torch.isinf(logprobs), 0.0, logprobs.exp() * logprobs)
    return world.aligned(terms.sum(-1), slot)
