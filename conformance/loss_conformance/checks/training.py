"""A short training run: following the gradient makes the loss smaller, and keeps it finite."""

from __future__ import annotations

from collections import deque
from typing import Final

import torch

from loss_conformance.cases.slot import Slot
from loss_conformance.checks.conditions import unless
from loss_conformance.checks.descent import descended, table_is_known
from loss_conformance.checks.registry import check
from loss_conformance.evaluation import Evaluation
from loss_conformance.report.numbers import number
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["short_training"]

STEPS: Final = 20
LEARNING_RATES: Final = (0.1, 0.01, 0.001)


@check(
    group="stability",
    statement="Twenty optimiser steps on a tiny model lower L and keep it finite.",
    over=("typical", "full"),
    why="It is what the loss is for; a loss that does not fall on three rows will not fall on three million.",
    cause="a gradient that belongs to something else than the value, or points the other way.",
    fix="Compare the gradient with the finite difference; look at the sign and at what is detached.",
    seen_in="kornia/kornia@4992bf309",
    applies=unless("surrogate_gradient", "stateful", "stochastic"),
    requires=("scalar_output", "finite_value", "trainables_receive_gradient", "finite_difference"),
)
def short_training(trial: Trial) -> None:
    base = trial.finite_base
    slots = [slot for slot in trial.case.slots() if slot.key in base.gradients]
    if not slots or not any(_moves(trial, slot, base) for slot in slots):
        raise NotExercised("the gradient is 0 on this case: there is nowhere to go")
    if not all(table_is_known(slot) for slot in slots):
        raise NotExercised("a trainable input has a limited range no tiny model is known for")
    ends = []
    for rate in LEARNING_RATES:
        (last,) = deque(descended(trial, slots, rate, STEPS), maxlen=1)
        end = float(last.value)
        if not abs(end) < float("inf"):
            raise Broken(f"L = {number(end)} after {STEPS} steps at rate {rate:g}", "a finite loss")
        if end < float(base.value):
            return
        ends.append(f"{number(end)} at rate {rate:g}")
    if _falls_at_first(trial, slots, base):
        return
    raise Broken(f"L = {', '.join(ends)} after {STEPS} steps", f"less than {number(base.value)}")


def _moves(trial: Trial, slot: Slot, base: Evaluation) -> bool:
    gradient = base.gradients[slot.key]
    return bool((gradient.abs() > 1e-3 * trial.bench.usual_gradients.get(slot.key, 0.0)).any())


def _falls_at_first(trial: Trial, slots: list[Slot], base: Evaluation) -> bool:
    """Return whether some smaller step goes down: beside the optimum of a kinky loss every longer one overshoots."""
    for power in range(4, 24, 4):
        moved = {}
        for slot in slots:
            x, gradient = trial.case.tensor(slot), base.gradients[slot.key]
            step = gradient / gradient.abs().amax().clamp(min=1e-30) * 2.0**-power
            moved[slot.key] = torch.clamp(x - step, max=0.0) if slot.role == "logprobs" else x - step
        if float(trial.evaluate(trial.case.with_tensors(moved)).value) < float(base.value):
            return True
    return False
