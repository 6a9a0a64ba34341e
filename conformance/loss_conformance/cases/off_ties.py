"""Off the ties: a case beside a case, in which no two numbers are equal by construction."""

from __future__ import annotations

import torch
from torch import Tensor

from loss_conformance.cases.case import Case

__all__ = ["off_ties"]

SIZE = 1e-3


def off_ties(case: Case) -> Case:
    """Return the case with every trainable number moved by about a thousandth, each by another amount.

    Cases are drawn on a coarse grain, so sorting, max and hinge losses meet exact ties, where any subgradient is right.
    """
    moved: dict[str, Tensor] = {}
    for slot in case.slots():
        if slot.trainable and slot.movable:
            tensor = case.tensor(slot)
            generator = torch.Generator().manual_seed(len(moved))
            step = SIZE * torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor)
            # Log-probabilities stay at most 0.
            moved[slot.key] = tensor - step.abs() if slot.role == "logprobs" else tensor + step
    return case.with_tensors(moved)
