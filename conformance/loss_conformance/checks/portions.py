"""Portions: a setting that says how much is computed at a time changes nothing but the memory that takes."""

from __future__ import annotations

import re
from typing import Final

from loss_conformance.checks.conditions import unless, unless_rebuilt
from loss_conformance.checks.other_settings import evaluated_with
from loss_conformance.checks.registry import check
from loss_conformance.trial import NotExercised, Trial

__all__ = ["ORDERS_THE_WORK", "portions_change_nothing"]

ORDERS_THE_WORK: Final = re.compile(r"(.*_)?((chunk|mini_?batch|micro_?batch)(_?size)?s?)", re.IGNORECASE)
"""What a setting is called that says in which portions to compute, and should change nothing."""
PORTIONS: Final = (1, 2, 3)


@check(
    group="options",
    statement="Computed in portions of any size, or in any number of them, L and its gradient are the same.",
    over=("typical", "full"),
    why="The default holds the whole of every test batch, and not of those that are trained on.",
    cause="an index counted from the start of the portion, a floor against a division by 0 in each of them, a mean of means.",
    fix="Offset by where the portion begins; sum over all portions, then divide once.",
    seen_in="huggingface/sentence-transformers#2932",
    applies=lambda trial: unless("stochastic", "stateful")(trial) or unless_rebuilt(trial) or _unless_portioned(trial),
    most_cases=3,
)
def portions_change_nothing(trial: Trial) -> None:
    taken = False
    for name, value in _portions(trial).items():
        for size in PORTIONS:
            got = evaluated_with(trial, trial.case, {name: size})
            if got is None or size == value:
                continue
            taken = True
            guessed = not trial.facts.any_promised
            trial.require_same(got, trial.finite_base, f"{name} = {size} instead of {value}", guessed=guessed)
    if not taken:
        raise NotExercised("it takes no other size of its portions")


def _unless_portioned(trial: Trial) -> str | None:
    return None if _portions(trial) else "it has no setting that says how much is computed at a time"


def _portions(trial: Trial) -> dict[str, int | None]:
    return {
        name: value
        for name, value in trial.bench.subject.settings.items()
        if ORDERS_THE_WORK.fullmatch(name)
        and (value is None or (isinstance(value, int) and not isinstance(value, bool)))
    }
