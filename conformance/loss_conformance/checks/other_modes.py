"""Other modes: what must hold of a loss holds with every declared choice of its settings, not only with the one in force."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

from loss_conformance.bench import Bench
from loss_conformance.checks.conditions import unless, unless_rebuilt
from loss_conformance.checks.other_settings import named_values, rebuilt_with_each
from loss_conformance.checks.registry import Check, Cost, check, every_check
from loss_conformance.evaluation import LossRaised, Malformed
from loss_conformance.subject.protocol import CannotFeed
from loss_conformance.subject.subject import TargetError
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["laws_hold_in_every_mode"]

SCALES: Final = re.compile(r".*(reduc|agg|norm|mean|average|divi|scale|level).*", re.IGNORECASE)
"""What a setting is called, or a choice of it, that says what to divide by."""
LAYS_OUT: Final = re.compile(r".*(layout|interleav|batch_first).*", re.IGNORECASE)
"""What a setting is called that says which rows belong together: batches here are laid out for the one in force."""
AS_IT_IS_MEANT: Final = ("common_divisor", "wanted_direction", "rejected_is_not_raised")
"""Laws that a choice may break on purpose: a sum, or another goal, no contract says of one choice."""
OF_ANY_MODE: Final = (
    *("finite_value", "finite_gradient", "mask_value", "batch_permutation", "smoothing_keeps_the_total"),
    *AS_IT_IS_MEANT,
)
OF_A_MEAN: Final = ("duplicate_rows", "microbatch")


@check(
    group="options",
    statement="With every choice of a setting L is finite, ignores what is masked and the order of rows, and is divided "
    "as the contract says.",
    over=("typical", "never_chosen"),
    cost=Cost.STANDARD,
    why="The branch nobody tests is the one somebody turns on: it is divided twice, or never sees the mask.",
    cause="a branch that was not changed when the other one was.",
    fix="Compute the terms in the branches, and mask, weigh and divide them once behind; a contract may follow the setting.",
    seen_in="modelscope/easydistill#16",
    applies=lambda trial: unless("stochastic", "stateful", "coupled")(trial) or _unless_it_has_modes(trial),
    requires=("scalar_output", *OF_ANY_MODE, *OF_A_MEAN),
    most_cases=1,
)
def laws_hold_in_every_mode(trial: Trial) -> None:
    laws = {each.name: each for each in every_check()}
    tried = False
    for name, value, loss in _modes(trial):
        try:
            mode = _in_mode(trial, name, value, loss)
        except NotExercised:
            continue
        for law in [laws[law] for law in _laws(trial, name, value)]:
            try:
                tried = _holds(mode, law) or tried
            except Broken as broken:
                raise Broken(
                    broken.got,
                    broken.wanted,
                    changed=f"{name} = {value!r}" + (f"; {broken.changed}" if broken.changed else ""),
                    tolerance=broken.tolerance,
                    cause=f"with {name} = {value!r} this no longer holds: {law.statement}",
                    guessed=law.name in AS_IT_IS_MEANT or name not in trial.facts.contract.options,
                ) from None
    if not tried:
        raise NotExercised("no other choice could be tried")


def _holds(mode: Trial, law: Check) -> bool:
    """Return whether a law could be tried, and held.

    Raises:
        Broken: it did not, and not by a guess alone or at a tie, where either of two gradients is right.
    """
    if law.name in mode.facts.contract.exempt or law.applies(mode) is not None:
        return False
    try:
        if law.group != "finite":
            _ = mode.finite_base  # nothing more is said of a loss that is not finite here
        law.law(mode)
    except (NotExercised, LossRaised, Malformed):
        return False
    except Broken as broken:
        if broken.guessed or broken.of_gradient:
            return False
        raise
    return True


def _in_mode(trial: Trial, name: str, value: Any, loss: Any) -> Trial:
    """Return the trial of the same loss constructed with another setting, by which its contract and inputs may go.

    Raises:
        NotExercised: with that setting it cannot be fed.
    """
    subject = trial.bench.subject
    constructed = subject.rebuild
    assert constructed is not None
    in_mode = replace(
        subject,
        loss=loss,
        settings={**subject.settings, name: value},
        rebuild=lambda changed: constructed({name: value, **changed}),
    )
    try:
        bench = Bench(in_mode, trial.bench.seed)
    except (CannotFeed, TargetError) as refused:
        raise NotExercised(f"with {name} = {value!r} it cannot be fed: {refused}") from None
    bench.pool = trial.bench.pool
    plan = trial.case.plan
    return Trial(bench, trial.case if plan is None else bench.case(plan, 0))


def _unless_it_has_modes(trial: Trial) -> str | None:
    return unless_rebuilt(trial) or (None if _choices(trial) else "it has no choice between words")


def _choices(trial: Trial) -> list[tuple[str, list[Any]]]:
    """Return the declared options that are words or yes or no, and words the code compares with, but those in force."""
    found = []
    for name, value in trial.bench.subject.settings.items():
        values = named_values(trial, name)
        if values and not LAYS_OUT.fullmatch(name) and all(isinstance(each, str | bool) for each in values):
            found.append((name, [each for each in values if each != value]))
    return found


def _modes(trial: Trial) -> Iterator[tuple[str, Any, Any]]:
    for name, values in _choices(trial):
        yield from ((name, value, loss) for value, loss in rebuilt_with_each(trial, name, values))


def _laws(trial: Trial, name: str, value: Any) -> tuple[str, ...]:
    scales = SCALES.fullmatch(name) or SCALES.fullmatch(str(value)) or not trial.facts.promised("normalizer")
    return OF_ANY_MODE if scales else (*OF_ANY_MODE, *OF_A_MEAN)
