"""A case moved by one rounding: what a result may differ by for want of precision alone."""

from __future__ import annotations

import torch
from torch import Tensor

from loss_conformance.cases.case import Case

__all__ = ["perturbed", "rounded", "shares", "shifted"]


def shares(x: Tensor) -> Tensor:
    """Return a number in [-1, 1] for each entry of ``x``, all of them different: many losses ignore a common shift or factor."""
    return torch.cos(torch.arange(x.numel(), dtype=x.dtype)).reshape(x.shape)


def perturbed(case: Case, seed: int, eps: float) -> Case:
    """Return the case with every real input moved by one rounding, eps / 2 of itself, up or down at random.

    Scores of classes move by the rounding of their softmax as well: next to a certain class the others are added to 1.
    """
    generator = torch.Generator().manual_seed(seed)
    moved: dict[str, Tensor] = {}
    for slot in case.slots():
        tensor = case.tensor(slot)
        if slot.movable:
            sign = torch.randint(2, tensor.shape, generator=generator) * 2 - 1
            moved[slot.key] = tensor * (1 + sign * eps / 2)
            if slot.role == "logits" and slot.shape[-1:] == ("V",):
                moved[slot.key] = moved[slot.key] + sign * _of_softmax(tensor, eps)
    return case.with_tensors(moved)


def _of_softmax(scores: Tensor, eps: float) -> Tensor:
    """Return the step of the highest score that changes its probability p by eps / 2: d p = p (1 - p) d score."""
    highest, where = scores.softmax(-1).max(-1, keepdim=True)
    step = (eps / 2 / (1 - highest).clamp(min=eps)).to(scores.dtype)
    return torch.zeros_like(scores).scatter(-1, where, step.expand(where.shape))


def rounded(case: Case, seed: int, eps: float) -> Case:
    """Return the case with every constant that is a number moved by its last digit, some up and some down."""
    generator = torch.Generator().manual_seed(seed)
    moved: dict[str, Tensor] = {}
    for slot in case.slots():
        tensor = case.tensor(slot)
        if slot.movable and not slot.trainable and tensor.is_floating_point():
            sign = torch.randint(2, tensor.shape, generator=generator) * 2 - 1
            there = tensor * (1 + sign * eps)
            moved[slot.key] = there.clamp(max=0.0) if slot.role == "logprobs" else there
    return case.with_tensors(moved)


def shifted(case: Case, seed: int, eps: float) -> Case:
    """Return the case with every trained number moved by eps (1 + |x|): as one rounding of an intermediate of unit size.

    All go up for seed 0 and down for seed 1, which crosses every clip they are near; each its own way for other seeds.
    """
    generator = torch.Generator().manual_seed(seed)
    moved: dict[str, Tensor] = {}
    for slot in case.slots():
        tensor = case.tensor(slot)
        if slot.movable and slot.trainable and slot.role != "probabilities":
            sign = torch.randint(2, tensor.shape, generator=generator) * 2 - 1
            sign = torch.full_like(sign, 1 - 2 * seed) if seed < 2 else sign
            there = tensor + sign * eps * (1 + tensor.abs())
            moved[slot.key] = there.clamp(max=0.0) if slot.role == "logprobs" else there
    return case.with_tensors(moved)
