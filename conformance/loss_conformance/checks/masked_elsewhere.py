"""Masks under other settings: what is masked stays so whichever branch is taken."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from loss_conformance.cases.transform import append_masked_token
from loss_conformance.checks.conditions import unless, unless_rebuilt
from loss_conformance.checks.masking import masks_anything
from loss_conformance.checks.other_settings import evaluated_with, named_values
from loss_conformance.checks.portions import ORDERS_THE_WORK
from loss_conformance.checks.registry import Severity, check
from loss_conformance.evaluation import Evaluation
from loss_conformance.trial import NotExercised, Trial

__all__ = ["padding_with_other_settings"]

SAYS_WHAT_COUNTS: Final = re.compile(
    r"(.*_)?(mask(ed|ing)?|pad(ded|ding)?|ignored?|packed|causal|shift(ed)?|layout|span|len(gth)?s?|width|horizon)(_.*)?",
    re.IGNORECASE,
)
"""What a setting is called that says which tokens count, or how many there may be."""
SWITCHED_ON: Final = (0.5, 0.1)
"""What a share is tried at, and the weight of a term that is left out by default."""


@check(
    group="options",
    statement="With other settings, too, one masked token appended to every row leaves L unchanged.",
    over=("typical", "full"),
    severity=Severity.ADVICE,
    why="The term that is switched on later is the one whose mask nobody has tried.",
    cause="a mean, a quantile or an entropy behind a setting that is taken over padding as well.",
    fix="Take x[mask], or where(mask, x, 0).sum() / mask.sum(), in every branch.",
    seen_in="huggingface/trl#3709",
    applies=lambda trial: (
        unless("stochastic", "stateful")(trial)
        or unless_rebuilt(trial)
        or (None if masks_anything(trial) else "it takes no mask")
    ),
    requires=("scalar_output", "mask_value", "padding"),
    most_cases=2,
)
def padding_with_other_settings(trial: Trial) -> None:
    if not any(slot.token_axis is not None for slot in trial.case.slots()):
        raise NotExercised("it has no token axis to pad")
    grown, acted = append_masked_token(trial.case), False
    for changed in _others(trial):
        before = evaluated_with(trial, trial.case, changed)
        if before is None or not any(trial.moves(trial.finite_base, before)):
            continue
        after = evaluated_with(trial, grown, changed)
        if after is None or _by_width(trial, before, after):
            continue
        acted = True
        said = ", ".join(f"{name} = {value!r}" for name, value in changed.items())
        trial.require_value(after, before, f"{said}; one masked token appended to every row")
    if not acted:
        raise NotExercised("no other setting changes anything here")


def _others(trial: Trial) -> Iterator[dict[str, Any]]:
    """Yield settings that differ from those in force: each alone, all together, and every word beside all of them."""
    single = [{name: value} for name, value in _values(trial) if value != trial.bench.subject.settings.get(name)]
    yield from single
    together = {name: value for each in reversed(single) for name, value in each.items() if not isinstance(value, str)}
    if len(together) > 1:
        yield together
    if together:
        yield from ({**together, **each} for each in single if isinstance(next(iter(each.values())), str))


def _values(trial: Trial) -> Iterator[tuple[str, Any]]:
    declared = trial.facts.contract.options
    for name, value in trial.bench.subject.settings.items():
        if SAYS_WHAT_COUNTS.fullmatch(name) or ORDERS_THE_WORK.fullmatch(name):
            continue
        if name in declared or isinstance(value, str):
            yield from ((name, other) for other in named_values(trial, name))
        elif isinstance(value, bool):
            yield name, not value
        elif isinstance(value, float) and value in (0.0, 1.0):
            yield name, SWITCHED_ON[value == 0.0]


def _by_width(trial: Trial, before: Evaluation, after: Evaluation) -> bool:
    """Return whether L is divided by the width of the batch, which some means are on purpose."""
    widths = {
        trial.case.tensor(slot).shape[slot.token_axis] for slot in trial.case.slots() if slot.token_axis is not None
    }
    bound = 2 * trial.value_tolerance(before).bound
    return any(abs(float(before.value - after.value * (width + 1) / width)) <= bound for width in widths)
