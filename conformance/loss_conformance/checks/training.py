"""A short training run: following the gradient makes the loss smaller, and keeps it finite."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from loss_conformance.cases.slot import Slot
from loss_conformance.checks.conditions import unless
from loss_conformance.checks.registry import check
from loss_conformance.evaluation import Evaluation
from loss_conformance.report.numbers import number
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["short_training"]

STEPS: Final = 20
LEARNING_RATES: Final = (0.1, 0.01, 0.001)
FREE: Final = ("logits", "values", "rewards", "embeddings")


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
    if any(slot.limited or slot.role not in (*FREE, "logprobs") for slot in slots):
        raise NotExercised("a trainable input has a limited range no tiny model is known for")
    ends = []
    for rate in LEARNING_RATES:
        end = _train(trial, slots, rate)
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


def _train(trial: Trial, slots: list[Slot], rate: float) -> float:
    """Train a table of numbers, one per entry of every trainable input, and return the final loss.

    Each step moves the steepest entry by ``rate``. (The optimisers of torch import its compiler, a second and a half.)
    """
    tables = {slot.key: _table(slot, trial.case.tensor(slot)) for slot in slots}
    for _ in range(STEPS):
        leaves = {key: table.requires_grad_() for key, table in tables.items()}
        outputs = {slot.key: _model(slot, leaves[slot.key]) for slot in slots}
        got = trial.evaluate(trial.case.with_tensors({key: x.detach() for key, x in outputs.items()}))
        through_model = torch.stack([(got.gradients[key].to(x) * x).sum() for key, x in outputs.items()]).sum()
        slopes = torch.autograd.grad(through_model, list(leaves.values()))
        steepest = max(float(slope.abs().amax()) for slope in slopes)
        if not 0.0 < steepest < float("inf"):
            break
        tables = {key: (t - rate * g / steepest).detach() for (key, t), g in zip(leaves.items(), slopes, strict=True)}
    final = {slot.key: _model(slot, tables[slot.key]).detach() for slot in slots}
    return float(trial.evaluate(trial.case.with_tensors(final)).value)


def _table(slot: Slot, x: Tensor) -> Tensor:
    """Return the parameters whose model output is ``x``."""
    if slot.role != "logprobs" or slot.shape[-1:] == ("V",):
        return x.clone()
    below_one = x.clamp(max=-1e-6)
    return below_one - torch.log(-torch.expm1(below_one))


def _model(slot: Slot, table: Tensor) -> Tensor:
    """Return the input a table stands for: log-probabilities stay log-probabilities whatever the optimiser does."""
    if slot.role != "logprobs":
        return table
    return torch.log_softmax(table, -1) if slot.shape[-1:] == ("V",) else torch.nn.functional.logsigmoid(table)
