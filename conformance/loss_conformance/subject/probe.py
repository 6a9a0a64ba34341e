"""Trying a set of inputs on a loss once, and saying how well it took them."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

import torch
from torch import Tensor

from loss_conformance.cases.build import build
from loss_conformance.cases.case import Case
from loss_conformance.cases.label_values import MULTILABEL
from loss_conformance.cases.plan import Plan
from loss_conformance.cases.slot import Schema
from loss_conformance.subject.result import result_of

__all__ = ["PLAN", "Fit", "Probe", "probe", "spare"]

PLAN: Final = Plan("typical", "typical", 4, 7, 5, 2, 3, 8, "ragged", "ones", True, 1)
"""The case readings are tried on: no two sizes are equal, so that a wrong shape cannot broadcast silently."""


ROUNDING: Final = 4 * torch.finfo(torch.float32).eps


class Fit(IntEnum):
    """How well a loss took its inputs, worst first."""

    RAISED = 0
    NO_TENSOR = 1
    BROKEN = 2  # a tensor, but not finite, or detached from the inputs
    ASTRAY = 3  # a label is looked up among the scores of another token
    GOOD = 4


@dataclass(frozen=True)
class Probe:
    """The outcome of one trial call.

    Attributes:
        fit: how well the loss took the inputs.
        error: what it raised, if anything.
        case: what it was called with.
        gradients: gradient of the summed result with respect to every trainable input, by key.
        value: the summed result.
    """

    fit: Fit
    error: Exception | None = None
    case: Case | None = None
    gradients: dict[str, Tensor] | None = None
    value: Tensor | None = None


def probe(call: Callable[[Any, Case], Any], loss: Any, schema: Schema, plan: Plan = PLAN) -> Probe:
    """Call ``loss`` once with the inputs of ``schema``."""
    case = _with_the_last_class(build(schema, plan).cast(torch.float32), plan)
    trained = {slot.key: case.as_in_training(slot) for slot in case.slots() if slot.trainable}
    # A copy in between: the gradient asked for is of what was handed over, also when the loss then writes to it.
    case = case.with_tensors({key: tensor.clone() for key, tensor in trained.items()})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value, _ = result_of(call(loss, case))
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return Probe(Fit.NO_TENSOR)
        if not value.requires_grad or not bool(torch.isfinite(value).all()):
            return Probe(Fit.BROKEN, case=case)
        found = torch.autograd.grad(value.sum(), list(trained.values()), allow_unused=True) if trained else ()
    except Exception as error:
        return Probe(Fit.RAISED, error)
    gradients = {key: g for key, g in zip(trained, found, strict=True) if g is not None}
    # What is constant, softmax summed over its own axis, has a gradient of nothing but rounding.
    rounding = ROUNDING * float(value.detach().abs().sum())
    moves = any(bool((gradient.abs() > rounding).any()) for gradient in gradients.values())
    fit = Fit.BROKEN if not moves else Fit.ASTRAY if _labels_stray(call, loss, case, gradients) else Fit.GOOD
    return Probe(fit, case=case, gradients=gradients, value=value.detach().sum())


def _labels_stray(call: Callable[[Any, Case], Any], loss: Any, case: Case, found: dict[str, Tensor]) -> bool:
    try:
        return _labels_meet_other_scores(call, loss, case, found)
    except Exception:
        return False


def _labels_meet_other_scores(
    call: Callable[[Any, Case], Any], loss: Any, case: Case, found: dict[str, Tensor]
) -> bool:
    """Return whether the label of the last token meets the scores of a token that is neither its own nor the one before.

    ``scores.gather(-1, labels.unsqueeze(1))``, meant for [B, V], takes [B, S, V] and looks up every label at token 0.
    """
    for slot in case.slots():
        along = tuple(letter for letter in slot.shape if letter != "V")
        labels = next((s for s in case.slots() if s.integer and s.shape == along and s.role == "labels"), None)
        if slot.key not in found or slot.shape != (*along, "V") or len(along) != 2 or labels is None:
            continue
        y = case.tensor(labels).clone()
        counted = [t for t, label in enumerate(y[0].tolist()) if label != labels.ignore]
        last = max(counted, default=0)
        y[0, last] = (y[0, last] + 1) % case.tensor(slot).shape[-1]
        other = case.with_tensors({labels.key: y})
        scores = case.tensor(slot).detach().clone().requires_grad_()
        value, _ = result_of(call(loss, other.with_tensors({slot.key: scores.clone()})))
        changed = (torch.autograd.grad(value.sum(), scores)[0] != found[slot.key])[0].any(dim=-1).nonzero().flatten()
        # Of several heads some predict the token after the next.
        heads = sum(s.shape == slot.shape and s.key in found for s in case.slots())
        if last > heads and changed.numel() and not set(range(last - heads, last + 1)) & set(changed.tolist()):
            return True
    return False


def _with_the_last_class(case: Case, plan: Plan) -> Case:
    """Return the case with the highest class id among its labels: a loss of fewer classes must refuse what is offered."""
    changed = {}
    for slot in case.slots():
        if slot.role != "labels" or not slot.integer or slot.kind == MULTILABEL:
            continue
        labels = case.tensor(slot).clone()
        highest = int(slot.high) - 1 if slot.high is not None else plan.vocabulary - 1
        kept = torch.ones_like(labels, dtype=torch.bool) if slot.ignore is None else labels != slot.ignore
        if bool(kept.any()) and highest != slot.ignore:
            labels[tuple(kept.nonzero()[0])] = highest
            changed[slot.key] = labels
    return case.with_tensors(changed)


def spare(loss: Any) -> Any:
    """Return a copy to experiment on, so that no trial call changes the state of the loss; itself if it has no copy."""
    try:
        return copy.deepcopy(loss)
    except Exception:
        return loss
