"""Quantiles: the level is that of the predicted quantile, not of what it is compared with."""

from __future__ import annotations

import re
from typing import Final

import torch
from torch import Tensor

from loss_conformance.cases.slot import Slot
from loss_conformance.checks.conditions import unless
from loss_conformance.checks.registry import check
from loss_conformance.report.numbers import number
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["levels_go_with_predictions"]

QUANTILES: Final = re.compile(r".*quantiles?.*", re.IGNORECASE)
LEVELS: Final = re.compile(r"(.*_)?(taus?|levels?|fractions?|tau_hats?)", re.IGNORECASE)


@check(
    group="direction",
    statement="Of predicted quantiles that are all alike and all too low, the one of the highest level is pulled up hardest.",
    over=("typical", "full"),
    why="With the levels along the axis of the targets every quantile learns the same thing: the distribution collapses.",
    cause="levels of shape [Q], or [1, 1, Q], broadcast along the axis of the targets in a [B, Q, Q] difference.",
    fix="levels.view(1, Q, 1) where the axes are (row, predicted, target).",
    seen_in="BY571/QR-DQN#1",
    applies=lambda trial: unless("stochastic", "stateful")(trial),
    most_cases=2,
)
def levels_go_with_predictions(trial: Trial) -> None:
    predicted, wanted = _sides(trial)
    pulls = []
    for away in (1.0, -1.0):
        alike = torch.zeros_like(trial.case.tensor(predicted))
        targets = torch.full_like(trial.case.tensor(wanted), away)
        got = trial.evaluate(trial.case.with_tensors({predicted.key: alike, wanted.key: targets}))
        pulls.append(got.gradients[predicted.key].abs().sum(0))
    low, high = pulls
    bound = 4 * trial.gradient_tolerance(predicted.key, trial.finite_base.gradients[predicted.key]).bound
    if not _alike(low, bound) or not _alike(high, bound) or not bool((low > bound).all()):
        return
    raise Broken(
        f"every quantile is pulled by {number(low[0])}",
        "more, the higher its level",
        changed=f"{predicted.key} all 0, {wanted.key} all 1",
        guessed=not trial.facts.any_promised,
    )


def _sides(trial: Trial) -> tuple[Slot, Slot]:
    slots = trial.case.slots()
    named = [slot for slot in slots if QUANTILES.fullmatch(slot.name) and len(slot.shape) == 2 and slot.row_axis == 0]
    predicted = [slot for slot in named if slot.trainable and trial.case.tensor(slot).shape[1] > 1]
    wanted = [slot for slot in named if not slot.trainable]
    if len(predicted) != 1 or len(wanted) != 1 or any(LEVELS.fullmatch(slot.name) for slot in slots):
        raise NotExercised("it reads no predicted quantiles beside wanted ones, of levels of its own")
    return predicted[0], wanted[0]


def _alike(pull: Tensor, bound: float) -> bool:
    return float(pull.max() - pull.min()) <= bound
