"""The precision a loss really computes in, whatever it is fed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.cases.perturb import shares
from loss_conformance.evaluation import Evaluation

__all__ = ["computes_in_float64"]

NUDGE: Final = 2.0**-34
"""Relative change of an input: far above float64 rounding, far below float32 rounding."""
LARGER: Final = 2.0**-12
"""One that float32 feels too, and that is still small."""


def computes_in_float64(case: Case, evaluate: Callable[[Case], Evaluation], follows_gradient: bool = True) -> bool:
    """Return whether every input reaches the loss without a detour through float32.

    Two signs of such a detour: the value moves as the gradient says under a small step of all trainable inputs but not
    under a tiny one (under neither, the gradient is that of something else, which is no matter of precision), or it
    ignores a nudge of an input although it does react to a larger change of it. ``follows_gradient=False`` leaves out the
    first, for losses whose gradient is on purpose not that of their value.
    """
    base = evaluate(case)
    if base.dtype is not torch.float64:
        return False
    tiny_lost = follows_gradient and not _moves_as_predicted(case, base, evaluate, NUDGE)
    if tiny_lost and _moves_as_predicted(case, base, evaluate, LARGER):
        return False
    return all(_reacts(case, key, base, evaluate) for key in [*_constants(case), *_free(case, base)])


def _moves_as_predicted(case: Case, base: Evaluation, evaluate: Callable[[Case], Evaluation], size: float) -> bool:
    nudged = {key: _nudged(case.tensors[key], size) for key in _free(case, base)}
    moved = float(evaluate(case.with_tensors(nudged)).value - base.value)
    predicted = sum(_inner(nudged[key] - case.tensors[key], base.gradients[key]) for key in nudged)
    return abs(moved - predicted) <= 0.02 * abs(predicted) + 1e-14 * (1 + abs(float(base.value)))


def _reacts(case: Case, key: str, base: Evaluation, evaluate: Callable[[Case], Evaluation]) -> bool:
    def differs(size: float) -> bool:
        return bool(evaluate(case.with_tensors({key: _nudged(case.tensors[key], size)})).value != base.value)

    return differs(NUDGE) or not differs(2.0**-7)


def _nudged(x: Tensor, size: float) -> Tensor:
    return x * (1 + size * shares(x))


def _constants(case: Case) -> list[str]:
    return [slot.key for slot in case.slots() if not slot.trainable and slot.movable]


def _free(case: Case, base: Evaluation) -> list[str]:
    """Return the trainable inputs that may be moved a little without leaving their range."""
    return [slot.key for slot in case.slots() if slot.key in base.gradients and slot.movable]


def _inner(step: Tensor, gradient: Tensor) -> float:
    product = step * gradient
    return float(product[torch.isfinite(product)].sum())
