"""A loss's own numbers: training them must not pay off without end, whatever the model does."""

from __future__ import annotations

from typing import Final

import torch

from loss_conformance.checks.conditions import unless
from loss_conformance.checks.registry import Severity, check
from loss_conformance.evaluation import LossRaised, Malformed, parameters_of
from loss_conformance.report.numbers import number
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["own_numbers_settle"]

FAR: Final = (20.0, 40.0, 60.0)
"""Where a number is put, in steps past which exp has nothing more to say."""
LARGEST: Final = 16
"""Entries of a parameter that is a weight, a scale or a bias, rather than a table of vectors."""
ALIKE: Final = 1e-3


@check(
    group="stability",
    statement="L does not fall without end, by the same on every batch, as one of the loss's own numbers grows.",
    severity=Severity.ADVICE,
    why="The optimiser follows that number for ever: L goes down every step and the model learns nothing.",
    cause="the term that keeps a learned weight or variance in check has the wrong sign, or is missing its other half.",
    fix="exp(-s) L + s: what lowers the weight must cost as much as it saves.",
    applies=lambda trial: _unless_it_has_numbers(trial),
)
def own_numbers_settle(trial: Trial) -> None:
    for name, parameter in parameters_of(trial.loss).items():
        if not 0 < parameter.numel() <= LARGEST:
            continue
        for sign in (1.0, -1.0):
            falls = _falls(trial, name, sign)
            # What depends on the batch is a multiplier that rises or falls with a constraint.
            if falls and max(falls) - min(falls) <= ALIKE * min(falls) and min(falls) > 0:
                raise Broken(
                    f"L falls by {number(falls[0])} for each step of {FAR[0]:g} of {name}, on every batch",
                    "an L with a lowest value",
                    changed=f"{name} {'+' if sign > 0 else '-'} {FAR[0]:g}, {FAR[1]:g} and {FAR[2]:g}",
                )


def _unless_it_has_numbers(trial: Trial) -> str | None:
    if trial.facts.contract.family == "policy_gradient":
        return "a surrogate has no lowest value"
    if not any(0 < parameter.numel() <= LARGEST for parameter in parameters_of(trial.loss).values()):
        return "it has no numbers of its own"
    return unless("stochastic", "surrogate_gradient", "stateful")(trial)


def _falls(trial: Trial, name: str, sign: float) -> list[float]:
    """Return by how much L falls per step on each ordinary case; nothing when some fall is no straight line."""
    own = parameters_of(trial.loss)[name]
    dtype = trial.bench.dtype
    try:
        losses = [trial.bench.caller.moved({name: torch.full_like(own, sign * far, dtype=dtype)}, dtype) for far in FAR]
        found = []
        for case, base in trial.bench.ordinary_cases():
            near, middle, far = (float(trial.evaluate(case, loss=loss).value) for loss in losses)
            straight = abs((near - middle) - (middle - far)) <= ALIKE * abs(middle - far)
            if not straight or not far < -abs(float(base.value)):
                return []
            found.append(middle - far)
    except (LossRaised, Malformed):
        raise NotExercised(f"it raises where {name} is large") from None
    return found
