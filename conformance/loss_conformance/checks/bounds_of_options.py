"""Bounds hold with every value of a setting that the contract lists, not with the one in force alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import torch

from loss_conformance.checks.conditions import unless, unless_rebuilt
from loss_conformance.checks.other_settings import rebuilt_with_each
from loss_conformance.checks.registry import Severity, check
from loss_conformance.evaluation import LossRaised, Malformed
from loss_conformance.report.numbers import number
from loss_conformance.trial import Broken, NotExercised, Trial
from loss_reference.contract import Contract

__all__ = ["bounds_of_options"]

BOUNDS: Final = (("lower_bound", 1.0), ("upper_bound", -1.0))


@check(
    group="positivity",
    statement="With every value that the contract lists for an option, L stays within its bounds.",
    over=("saturated", "typical", "certain"),
    severity=Severity.ADVICE,
    why="At a setting in the middle two roles are interchangeable; exchanged, they show at every other one.",
    cause="teacher and student exchanged in a mixture, or a coefficient and its complement.",
    fix="m = beta * p + (1 - beta) * q goes with beta * KL(p, m) + (1 - beta) * KL(q, m).",
    seen_in="huggingface/trl#3043",
    applies=lambda trial: unless("stochastic", "stateful")(trial) or _nothing_to_vary(trial),
    requires=("scalar_output", "lower_bound", "upper_bound"),
)
def bounds_of_options(trial: Trial) -> None:
    tried = False
    for name, value, loss in _others(trial):
        try:
            got = trial.evaluate(trial.case, loss=loss)
        except (LossRaised, Malformed):
            continue  # which option_effect says
        if not bool(torch.isfinite(got.value)):
            continue
        tried = True
        for fact, side in BOUNDS:
            bound = _bound(trial, loss, fact)
            tolerance = trial.value_tolerance(got)
            if bound is not None and side * (float(got.value) - bound) < -tolerance.bound:
                raise Broken(
                    got.value,
                    f"{fact} = {number(bound)}",
                    changed=f"{name}={value!r}",
                    tolerance=tolerance,
                    declare=f"self.contract = refine(self.contract, {fact}=...) where it depends on {name}",
                )
    if not tried:
        raise NotExercised("no other value of an option could be tried")


def _nothing_to_vary(trial: Trial) -> str | None:
    if not any(trial.facts.promised(fact) and fact in trial.facts.origin for fact, _ in BOUNDS):
        return "no bound is declared"
    return unless_rebuilt(trial) or (
        None if any(option.values for option in trial.facts.contract.options.values()) else "it lists no option"
    )


def _others(trial: Trial) -> Iterator[tuple[str, Any, Any]]:
    """Yield (name, value, loss) for the numbers listed that are not in force."""
    for name, option in trial.facts.contract.options.items():
        in_force = trial.bench.subject.settings.get(name)
        others = [value for value in option.values if type(value) is float and value != in_force]
        yield from ((name, value, loss) for value, loss in rebuilt_with_each(trial, name, others))


def _bound(trial: Trial, loss: Any, fact: str) -> float | None:
    """Return the bound that this loss promises: an instance may set its own, or none, for its settings."""
    if not trial.facts.promised(fact) or fact not in trial.facts.origin:
        return None
    own, in_force = (getattr(each, "contract", None) for each in (loss, trial.loss))
    says = isinstance(own, Contract) and isinstance(in_force, Contract) and in_force.declares(fact)
    bound: float | None = getattr(own if says else trial.facts.contract, fact)
    return bound
