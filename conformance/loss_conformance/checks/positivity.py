"""Bounds: what no legal input can go below, or above."""

from __future__ import annotations

from typing import Final

from loss_conformance.checks.descent import descended, table_is_known
from loss_conformance.checks.registry import check
from loss_conformance.report.numbers import number
from loss_conformance.trial import Broken, Trial

__all__ = ["lower_bound", "upper_bound"]

EVERYWHERE: Final = (
    "typical",
    "on_policy",
    "off_policy",
    "saturated",
    "certain",
    "ties",
    "full",
    "holes",
    "one_row",
    "absent_rows",
)

LARGE: Final = ("logits", "values")
"""Roles of trained numbers that a model may make as large as it likes."""

NO_MINIMUM: Final = "Contract(lower_bound=float('-inf'))"
STEPS: Final = 20
LEARNING_RATE: Final = 0.5
"""Ten units of a logit in all: from typical to certain."""


@check(
    group="positivity",
    statement="L(batch) is never below its lower bound.",
    over=EVERYWHERE,
    why="A divergence or log-loss below 0 has a flipped sign, a wrong normalisation, or a term with exchanged roles.",
    cause="a flipped sign, exchanged arguments of a divergence, or a term that should have been subtracted.",
    fix="Compare with the formula term by term; declare Contract(lower_bound=float('-inf')) if the loss has no minimum.",
    seen_in="huggingface/trl@7e5924d17",
    applies=lambda trial: _unbounded(trial, "lower_bound", float("-inf")),
    own_batch=True,
)
def lower_bound(trial: Trial) -> None:
    bound = trial.facts.contract.lower_bound
    assert bound is not None
    base = trial.finite_base
    tolerance = trial.value_tolerance(base)
    promised = trial.facts.promised("lower_bound")
    if float(base.value) < bound - tolerance.bound:
        raise Broken(
            base.value,
            f"at least {number(bound)}",
            tolerance=tolerance,
            guessed=not promised and (trial.foreign or not _always_below(trial, bound)),
            declare="" if promised else NO_MINIMUM,
        )
    if trial.case.plan is not None and trial.case.plan.situation == "typical":
        if promised:
            _hold_where_one_is_large(trial, bound)
        _hold_where_training_leads(trial, bound, promised)


@check(
    group="positivity",
    statement="L(batch) is never above its upper bound.",
    over=EVERYWHERE,
    why="A bounded loss above its cap mixes in something that is not part of its formula.",
    cause="a mixture taken in log space, a missing normalisation, or a sum where a mean was meant.",
    fix="Compare with the formula term by term, and check what the mean divides by.",
    seen_in="huggingface/trl@7e5924d17",
    applies=lambda trial: _unbounded(trial, "upper_bound", float("inf")),
    own_batch=True,
)
def upper_bound(trial: Trial) -> None:
    bound = trial.facts.contract.upper_bound
    assert bound is not None
    base = trial.finite_base
    tolerance = trial.value_tolerance(base)
    if float(base.value) > bound + tolerance.bound:
        raise Broken(base.value, f"at most {number(bound)}", tolerance=tolerance)


def _hold_where_one_is_large(trial: Trial, bound: float) -> None:
    """Demand the bound where one trained input is large and the others are ordinary: what keeps it normalised shows then."""
    for slot in trial.case.slots():
        if not slot.trainable or slot.role not in LARGE or not slot.movable:
            continue
        x = trial.case.tensor(slot)
        for change, moved in (("× 16", 16 * x), ("+ 32", x + 32), ("- 32", x - 32)):
            got = trial.evaluate(trial.case.with_tensors({slot.key: moved}))
            tolerance = trial.value_tolerance(got)
            if float(got.value) < bound - tolerance.bound:
                raise Broken(
                    got.value, f"at least {number(bound)}", changed=f"{slot.key} {change}", tolerance=tolerance
                )


def _hold_where_training_leads(trial: Trial, bound: float, promised: bool) -> None:
    """Demand the bound all the way down the gradient: nothing looks for what lies below it as hard as an optimiser."""
    slots = [slot for slot in trial.case.slots() if slot.key in trial.base.gradients]
    if not slots or not all(table_is_known(slot) for slot in slots):
        return
    for step, got in enumerate(descended(trial, slots, LEARNING_RATE, STEPS)):
        tolerance = trial.value_tolerance(got)
        if float(got.value) < bound - tolerance.bound:
            changed = f"after {step} steps down the gradient, the steepest entry moved by {LEARNING_RATE:g} in each"
            raise Broken(
                got.value,
                f"at least {number(bound)}",
                changed=changed,
                tolerance=tolerance,
                guessed=not promised,
                declare="" if promised else NO_MINIMUM,
            )


def _unbounded(trial: Trial, fact: str, nothing: float) -> str | None:
    bound = getattr(trial.facts.contract, fact)
    if bound is None:
        return f"no {fact} is declared"
    return f"{fact} = {bound} ({trial.facts.origin[fact]})" if bound == nothing else None


def _always_below(trial: Trial, bound: float) -> bool:
    """Return whether every ordinary case lies below: a flipped sign, not a loss with a legitimate negative part."""
    values = [float(e.value) for e in trial.bench.ordinary_bases()]
    return bool(values) and all(value < bound for value in values)
