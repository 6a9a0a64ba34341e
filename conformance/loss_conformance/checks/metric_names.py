"""Metrics that bear the name of one side: what they say is of that side."""

from __future__ import annotations

import re

from loss_conformance.cases.one_side import SIDES, one_side_moved
from loss_conformance.checks.conditions import unless
from loss_conformance.checks.metrics import single_numbers
from loss_conformance.checks.registry import Severity, check
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["metrics_of_their_side"]


@check(
    group="metrics",
    statement="A metric that bears the name of one side (chosen, rejected) moves with the inputs of that side.",
    over=("typical", "full"),
    severity=Severity.ADVICE,
    why="Curves of two answers that are exchanged show a healthy run where the model unlearns what was wanted.",
    cause="two results of one call unpacked in the other order.",
    fix="metrics = {'logps/chosen': chosen.mean().detach(), 'logps/rejected': rejected.mean().detach()}.",
    seen_in="hiyouga/LlamaFactory#6050",
    applies=lambda trial: unless("stochastic", "stateful", "coupled")(trial),
)
def metrics_of_their_side(trial: Trial) -> None:
    base = single_numbers(trial.finite_base.metrics)
    tried = False
    for pair in SIDES:
        named = {name: side for name in base if (side := _only_side(name, pair)) is not None}
        moved = {side: _moved(trial, side, base) for side in pair} if named else {}
        if any(found is None for found in moved.values()):
            continue
        for name, own in named.items():
            (other,) = set(pair) - {own}
            tried = True
            if name in (moved[other] or ()) and name not in (moved[own] or ()):
                raise Broken(
                    f"the metric {name!r} moves with what is {other}, and not with what is {own}",
                    f"a number of what is {own}",
                )
    if not tried:
        raise NotExercised("it returns no number that bears the name of one side alone")


def _only_side(name: str, pair: tuple[str, str]) -> str | None:
    words = set(re.split(r"[^a-z]+", name.lower()))
    found = words & set(pair)
    return found.pop() if len(found) == 1 else None


def _moved(trial: Trial, side: str, base: dict[str, float]) -> set[str] | None:
    """Return the metrics that move with what the model computed of one side; ``None`` where it has no inputs of its own."""
    case = one_side_moved(trial.case, side)
    if case is None:
        return None
    got = single_numbers(trial.evaluate(case).metrics)
    return {name for name, value in base.items() if got.get(name) != value}
