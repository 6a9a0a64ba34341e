"""Coupling that was promised: rows that are said to look at each other do."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.cases.label_values import BINARY
from loss_conformance.cases.plan import ORDINARY
from loss_conformance.cases.transform import group_size, other_content
from loss_conformance.checks.conditions import unless
from loss_conformance.checks.minimum import variants
from loss_conformance.checks.registry import Severity, check
from loss_conformance.evaluation import Evaluation, LossRaised, Malformed
from loss_conformance.facts.coupling import Coupling
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["coupled_rows"]


@check(
    group="symmetry",
    statement="Of a loss declared coupled, what one row holds changes the gradient of another.",
    over=("typical",),
    severity=Severity.ADVICE,
    why="A baseline, marginal or contrast over the batch that is taken along another axis is a constant: it trains nothing.",
    cause="a mean or sum over the wrong axis, or a line that overwrites the coupled term with an uncoupled one.",
    fix="Take the statistic over dim=0; leave coupled out of the contract if no row looks at another.",
    seen_in="eriklindernoren/PyTorch-GAN#52",
    applies=lambda trial: _unless_said_to_couple(trial),
)
def coupled_rows(trial: Trial) -> None:
    if trial.bench.coupling is not Coupling.NONE:
        return
    if not any(slot.row_axis == 0 and slot.trainable for slot in trial.case.slots()) or len(trial.case.rows) < 2:
        raise NotExercised("there is no second row to change")
    # Some settings leave nothing to couple: a support that is chosen over the batch, but holds everything.
    settings = (loss for _, _, loss in variants(trial, list(trial.bench.subject.settings)))
    if any(_some_row_follows(trial, loss) for loss in chain((None,), settings)):
        return
    if _shared_inputs_are_felt(trial):
        raise NotExercised("what couples the rows comes by an input with other axes, which all of them share")
    raise Broken(
        "the gradient of no row changes with another row",
        "rows that look at each other",
        changed="each input of the last row, and all of them together",
        declare="Contract(coupled=False)",
    )


def _some_row_follows(trial: Trial, loss: Any) -> bool:
    size = group_size(trial.case)
    for case, _ in trial.bench.cases_of(ORDINARY, 6):
        try:
            base = trial.evaluate(case, loss=loss)
            for changed in _other_last_group(case, size):
                if _others_follow(trial, base, trial.evaluate(case.with_tensors(changed), loss=loss), case, size):
                    return True
        except (LossRaised, Malformed):
            continue
    return False


def _shared_inputs_are_felt(trial: Trial) -> bool:
    """Return whether a constant with axes but none of rows, a statistic's own sample, changes the gradient of the rows."""
    for case, base in trial.bench.cases_of(ORDINARY, 2):
        for slot in case.slots():
            if slot.row_axis is None and slot.shape and slot.movable and not slot.trainable:
                other = case.with_tensors({slot.key: other_content(slot, case.tensor(slot))})
                if trial.moves(base, trial.evaluate(other))[1]:
                    return True
    return False


def _unless_said_to_couple(trial: Trial) -> str | None:
    if trial.facts.contract.coupled and trial.facts.promised("coupled"):
        return unless("stochastic")(trial)
    return "coupled = True is not declared"


def _other_last_group(case: Case, size: int) -> Iterator[dict[str, Tensor]]:
    """Yield other contents of the last row (or group): all of its numbers, then each input alone, its labels too."""
    rows = [slot for slot in case.slots() if slot.row_axis == 0]
    if any(slot.role == "pairs" for slot in case.slots()):
        return
    moved = {}
    for slot in rows:
        tensor = case.tensor(slot).clone()
        last = tensor[-size:]
        other = torch.zeros_like(last) if slot.role == "mask" else other_content(slot, last)
        tensor[-size:] = 1.0 - last if slot.limited or slot.kind == BINARY else other
        moved[slot.key] = tensor
    yield {slot.key: moved[slot.key] for slot in rows if slot.movable}
    for slot in rows:
        yield {slot.key: moved[slot.key]}


def _others_follow(trial: Trial, base: Evaluation, got: Evaluation, case: Case, size: int) -> bool:
    for slot in case.slots():
        if slot.key in base.gradients and slot.row_axis == 0:
            before, after = base.gradients[slot.key][:-size], got.gradients[slot.key][:-size]
            if bool(((after - before).abs() > trial.gradient_tolerance(slot.key, before).bound).any()):
                return True
    return False
