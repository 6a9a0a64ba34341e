"""Perfection: a prediction that is right, and sure of it, costs nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.cases.label_values import BINARY
from loss_conformance.cases.slot import Slot
from loss_conformance.checks.conditions import unless
from loss_conformance.checks.registry import Severity, check
from loss_conformance.evaluation import parameters_of
from loss_conformance.report.numbers import number
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["perfect", "perfect_costs_nothing", "prediction", "settles_above_nothing"]

STRENGTHS: Final = (20.0, 40.0)
"""Scores of the right answer above those of the wrong ones: e^-20 = 2e-9 is left to lose, then 4e-18."""
SETTLED: Final = 1e-6
"""Relative change between the two at which L has settled: a few hundred times what is left at the weaker one."""
NOTABLE: Final = 0.125
"""Share of an ordinary loss below which a remainder may be an epsilon, as that of sqrt(x^2 + eps)."""
BESIDE: Final = ("mask", "count", "lengths")
FAMILIES: Final = (None, "supervised")


@check(
    group="positivity",
    statement="Where the prediction is right and sure of it, an L that is at least 0 does not settle above 0.",
    over=("typical", "full"),
    severity=Severity.ADVICE,
    why="What is left has no gradient to speak of: a part of the formula is missing, or squashed once too often.",
    cause="a softmax or sigmoid taken twice, a factor 2 missing in an overlap, or a part that compares a thing with itself.",
    fix="Hand the scores themselves to a loss that squashes them; evaluate the formula by hand at the right answer.",
    seen_in="hubutui/DiceLoss-PyTorch#1",
    applies=lambda trial: unless("stochastic", "stateful")(trial) or _unless_bounded(trial),
)
def perfect_costs_nothing(trial: Trial) -> None:
    if parameters_of(trial.loss):
        raise NotExercised("it has parameters of its own, which may be anything yet")
    model, goal = prediction(trial.case)
    usual = trial.finite_base.value.abs()
    weak, strong = (trial.evaluate(case).value for case in perfect(trial.case, model, goal))
    if not bool(torch.isfinite(weak)) or not bool(torch.isfinite(strong)):
        raise NotExercised("it is not finite there, which other checks say")
    if not settles_above_nothing(weak, strong, usual):
        return
    if _follows_directions(trial, model):
        raise NotExercised("it looks at directions, not at how large the scores are")
    raise Broken(
        f"{number(weak)}, and {number(strong)} at twice the certainty",
        "towards 0",
        changed=f"{model.key} right about every {goal.key}, as sure as ±{STRENGTHS[0]:g}, then ±{STRENGTHS[1]:g}",
        declare="Contract(lower_bound=...)",
    )


def settles_above_nothing(weak: Tensor, strong: Tensor, usual: Tensor) -> bool:
    """Return whether L is the same number at twice the certainty, and no small one beside an ordinary L."""
    return bool((strong - weak).abs() <= SETTLED * weak.abs()) and bool(strong > NOTABLE * usual)


def _unless_bounded(trial: Trial) -> str | None:
    contract = trial.facts.contract
    if contract.family not in FAMILIES:
        return f"family = {contract.family!r}"
    return None if contract.lower_bound == 0.0 else "it is not known to be at least 0"


def prediction(case: Case) -> tuple[Slot, Slot]:
    """Return what is trained, and the labels or targets it should meet, where the loss reads nothing else that matters."""
    trained = [slot for slot in case.slots() if slot.trainable]
    others = [slot for slot in case.slots() if not slot.trainable and slot.role not in BESIDE]
    if len(trained) != 1 or len(others) != 1:
        raise NotExercised("it reads more than a prediction and what that should be")
    model, goal = trained[0], others[0]
    if _class_axis(model, goal) is None and not (_hard(model, goal) or _regression(model, goal)):
        raise NotExercised(f"nothing says when {model.key} is right about {goal.key}")
    return model, goal


def _class_axis(model: Slot, goal: Slot) -> int | None:
    """Return the axis of the scores that runs over the classes the labels name."""
    if model.role != "logits" or "V" not in model.shape or goal.role not in ("labels", "token_ids"):
        return None
    axis = model.shape.index("V")
    return axis if model.shape[:axis] + model.shape[axis + 1 :] == goal.shape else None


def _hard(model: Slot, goal: Slot) -> bool:
    scores = model.role == "logits" or (model.role in ("values", "probabilities") and goal.kind == BINARY)
    of_each = goal.role == "probabilities" or goal.kind == BINARY
    return scores and of_each and model.shape == goal.shape and "V" not in model.shape[-1:]


def _regression(model: Slot, goal: Slot) -> bool:
    plain = all(slot.kind == "values" and not slot.limited for slot in (model, goal))
    return plain and model.shape == goal.shape


def perfect(case: Case, model: Slot, goal: Slot) -> Iterator[Case]:
    """Yield the case with a right prediction, sure of it, and surer; of a regression, right about smaller and larger targets."""
    x, axis = case.tensor(model), _class_axis(model, goal)
    if axis is not None:
        labels = _in_turn(case, model, goal)
        wanted = labels
        if model.token_axis is not None and goal.token_axis is not None:
            speaks_of = torch.arange(x.shape[model.token_axis]) + model.shift - goal.shift
            last = labels.shape[goal.token_axis] - 1
            wanted = labels.index_select(goal.token_axis, speaks_of.clamp(max=last))
        spots = torch.zeros_like(x).scatter(axis, wanted.clamp(min=0).unsqueeze(axis), 1.0)
        for strength in STRENGTHS:
            yield case.with_tensors({model.key: strength * spots, goal.key: labels})
        return
    if _regression(model, goal):
        for scale in (1.0, 2.0):
            target = scale * case.tensor(goal)
            yield case.with_tensors({model.key: target.clone(), goal.key: target})
        return
    # Both answers in every row: what an overlap with nothing is worth is a convention.
    target = (torch.arange(x.numel()).reshape(x.shape) % 2).to(x)
    for strength in STRENGTHS:
        scores = strength * (2 * target - 1)
        right = torch.sigmoid(scores) if model.role == "probabilities" else scores
        yield case.with_tensors({model.key: right, goal.key: target})


def _in_turn(case: Case, model: Slot, goal: Slot) -> Tensor:
    """Return the labels; those of a map run through the classes, none of which is then absent."""
    labels, classes = case.tensor(goal), case.tensor(model).shape[model.shape.index("V")]
    if goal.shape[1:] in ((), ("S",), ("S-1",)):
        return labels
    if math.prod(labels.shape[1:]) < classes:
        raise NotExercised("a map has fewer places than there are classes")
    turn = (torch.arange(labels.numel()).reshape(labels.shape) % classes).to(labels)
    return torch.where(labels == goal.ignore, labels, turn) if goal.ignore is not None else turn


def _follows_directions(trial: Trial, model: Slot) -> bool:
    """Return whether L stays as it is when the scores of an ordinary batch are twice as large."""
    twice = trial.evaluate(trial.case.with_tensors({model.key: 2 * trial.case.tensor(model)}))
    return bool((twice.value - trial.base.value).abs() <= trial.value_tolerance(twice).bound)
