"""Inputs: what the loss reads, it uses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import torch
from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.cases.documents import DOCUMENTS
from loss_conformance.cases.perturb import shares
from loss_conformance.cases.slot import Slot
from loss_conformance.checks.registry import Severity, check
from loss_conformance.evaluation import Evaluation
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["input_effect"]

CASES: Final = 2
VISITED: Final = ("off_policy", "typical", "full")
FAR: Final = 400.0
DISTRIBUTIONS: Final = ("logits", "probabilities")
"""Roles that are felt as they are: what looks at their order alone has taken an argmax."""


@check(
    group="options",
    statement="Every real-valued constant the loss reads changes its gradient on some batch, and so do document ids.",
    over=("typical",),
    severity=Severity.ADVICE,
    why="A reference, teacher or old policy that is read and has no effect was meant to have one.",
    cause="the wrong tensor in the formula, or one that only passes through argmax.",
    fix="Follow the input through the equation; leave it out if it only serves a metric.",
    seen_in="Project-MONAI/MONAI@a215ea6db",
)
def input_effect(trial: Trial) -> None:
    constants = [slot for slot in trial.case.slots() if _is_real_constant(slot) or slot.kind == DOCUMENTS]
    if not constants:
        raise NotExercised("it reads no real-valued constant, and no document ids")
    for slot in constants:
        value_moves, gradient_moves = _moves(trial, slot, trial.bench.cases_of(VISITED, CASES))
        # What acts on a choice among many, or beyond a threshold, needs luck: ask more cases before saying anything. Not
        # of a distribution, whose argmax some case among many would change.
        further = trial.bench.further_cases(VISITED) if slot.role not in DISTRIBUTIONS else ()
        if gradient_moves or _moves(trial, slot, further)[1]:
            continue
        if value_moves:
            raise Broken(
                f"{slot.key} changes the value of L and no gradient at all",
                f"a gradient that depends on {slot.key}",
                cause="it is added to the loss, or cancels against what it is compared with: it trains nothing.",
            )
        raise Broken(f"{slot.key} is read and changes nothing", f"an L that depends on {slot.key}")


def _is_real_constant(slot: Slot) -> bool:
    return slot.movable and not slot.trainable


def _moves(trial: Trial, slot: Slot, cases: Iterable[tuple[Case, Evaluation]]) -> tuple[bool, bool]:
    """Return whether value and gradients follow this input on some of the cases."""
    value_moves = False
    for case, base in cases:
        if slot.key not in case.tensors:
            continue
        for other in _others(slot, case.tensor(slot)):
            of_value, of_gradient = trial.moves(base, trial.evaluate(case.with_tensors({slot.key: other})))
            if of_gradient:
                return True, True
            value_moves = value_moves or of_value
            if slot.role in DISTRIBUTIONS and not of_value:
                break
    return value_moves, False


def _others(slot: Slot, tensor: Tensor) -> Iterator[Tensor]:
    """Yield other contents: a small step, and what a ranking, a threshold or a hinge feels who do not feel that."""
    if slot.kind == DOCUMENTS:
        yield torch.zeros_like(tensor)
        yield torch.arange(tensor.numel()).reshape(tensor.shape).to(tensor)
        return
    step = 0.05 * (1.0 + shares(tensor))
    yield tensor - step
    if slot.role != "probabilities":
        yield tensor.amax() + tensor.amin() - tensor
        yield tensor - FAR * step
