"""Continuity: a small step of the model is a small step of the loss."""

from __future__ import annotations

import functools
from collections.abc import Callable
from itertools import pairwise
from typing import Final

import torch
from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.cases.slot import Slot
from loss_conformance.checks.choices import decides_otherwise
from loss_conformance.checks.conditions import unless
from loss_conformance.checks.registry import check
from loss_conformance.evaluation import LossRaised
from loss_conformance.report.numbers import number
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["continuous"]

SMOOTH_FAMILIES: Final = ("supervised", "value", "reward", "preference", "distillation")
"""Families whose published members have no jumps: policy gradients drop tokens, and miners pairs, beyond a threshold."""

INTERVALS: Final = 48
SUSPECTS: Final = 3
HALVINGS: Final = 48
EARLY: Final = 20
"""After so many halvings a slope has shrunk a million times; a jump has not."""

ASIDE: Final = 1e-5
"""A little beside a jump, where a loss that is not made of steps has moved on."""


@check(
    group="gradient_flow",
    statement="Along a straight line between two outputs of the model L makes no jump.",
    over=("typical", "full"),
    why="The gradient knows nothing of a jump: a loss that falls where the error passes a threshold rewards larger errors.",
    cause="branches of torch.where that do not meet: the linear part of a Huber loss without its constant, a clamp in one of "
    "them only, a hard threshold.",
    fix="Let both branches give the same value at the threshold: delta * (d - delta / 2) meets d^2 / 2 at delta.",
    seen_in="",
    applies=lambda trial: (
        unless("stochastic", "stateful")(trial)
        or (
            None
            if trial.facts.contract.family in (*SMOOTH_FAMILIES, None)
            else f"family = {trial.facts.contract.family!r} may select by a threshold"
        )
    ),
    requires=("scalar_output", "repeatable"),
    own_batch=True,
)
def continuous(trial: Trial) -> None:
    trial.compare_in_float32()
    base = trial.finite_base
    at = _line(trial)
    along = functools.partial(_value, trial, at)
    bound = 8 * trial.value_tolerance(base).bound
    values = [along(i / INTERVALS) for i in range(INTERVALS + 1)]
    if not all(abs(value) < float("inf") for value in values):
        raise NotExercised("it is not finite all along the line, which the finite checks say")
    steps = [after - before for before, after in pairwise(values)]
    # Where the loss bends or jumps, a step differs from its neighbours.
    smooth = [(steps[max(i - 1, 0)] + steps[min(i + 1, INTERVALS - 1)]) / 2 for i in range(INTERVALS)]
    for i in sorted(range(INTERVALS), key=lambda i: -abs(steps[i] - smooth[i]))[:SUSPECTS]:
        found = _jump(along, i / INTERVALS, (i + 1) / INTERVALS, smooth[i] * INTERVALS, bound)
        if found is None:
            continue
        before, after, low, high = found
        if along(low - ASIDE) == before and along(high + ASIDE) == after:
            raise NotExercised("it is a staircase: it rounds to fewer digits, which other checks say")
        if decides_otherwise(trial, at(low), at(high)):
            raise NotExercised(
                "it jumps where it decides otherwise, by an order or by numbers it detached to compare them"
            )
        declared = trial.facts.origin.get("family") == "declared"
        raise Broken(
            f"L jumps from {number(before)} to {number(after)} within {high - low:.0e} of the way",
            "a step that shrinks with the interval",
            changed="the outputs of the model moved on a straight line, everything else as it was",
            tolerance=trial.value_tolerance(base),
            guessed=not declared,
            declare="" if declared else "Contract(exempt={'continuous': ...}) where a threshold is meant",
        )


def _line(trial: Trial) -> Callable[[float], Case]:
    """Return the case as a function of the share of the way from this output of the model to another."""
    ends = {slot.key: _elsewhere(trial.case, slot) for slot in trial.case.slots() if slot.trainable and slot.movable}
    if not ends or any(slot.role == "embeddings" for slot in trial.case.slots()):
        raise NotExercised("it is trained through nothing that can be moved on a line, or selects among embeddings")

    def at(share: float) -> Case:
        moved = {key: torch.lerp(trial.case.tensors[key], end, share) for key, end in ends.items()}
        return trial.case.with_tensors(moved)

    return at


def _value(trial: Trial, at: Callable[[float], Case], share: float) -> float:
    try:
        return float(trial.evaluate(at(share), only=frozenset()).value)
    except LossRaised as raised:
        raise NotExercised(f"it raises on the way, which other checks say: {raised}") from None


def _elsewhere(case: Case, slot: Slot) -> Tensor:
    tensor = case.tensor(slot)
    if slot.role == "probabilities":
        return tensor.flip(0)
    generator = torch.Generator().manual_seed(len(slot.key))
    far = 2.0 * torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor)
    far = -far.abs() if slot.role == "logprobs" else far
    if slot.role == "logprobs" and slot.shape[-1] == "V":
        far = far.log_softmax(-1)
    return torch.where(torch.isfinite(tensor), far, tensor)


def _jump(
    along: Callable[[float], float], low: float, high: float, slope: float, bound: float
) -> tuple[float, float, float, float] | None:
    """Return (value before, value after, start, end) of a step that stays as its interval is halved, or ``None``."""
    before, after = along(low), along(high)
    early = float("inf")
    for halving in range(HALVINGS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        at = along(middle)
        expected = slope * (high - low) / 2
        if abs(at - before - expected) >= abs(after - at - expected):
            high, after = middle, at
        else:
            low, before = middle, at
        left = abs(after - before - slope * (high - low))
        if not left > bound:
            return None
        if halving == EARLY:
            early = left
    return (before, after, low, high) if abs(after - before) > 0.9 * early else None
