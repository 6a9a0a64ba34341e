"""Padding: appending what weighs nothing changes nothing."""

from __future__ import annotations

import re
from typing import Final

import torch
from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.cases.slot import ARGUMENT
from loss_conformance.cases.transform import append_masked_rows, append_masked_token
from loss_conformance.checks.conditions import unless
from loss_conformance.checks.masking import masks_anything
from loss_conformance.checks.other_settings import evaluated_with
from loss_conformance.checks.registry import check
from loss_conformance.evaluation import Evaluation
from loss_conformance.subject.signatures import parameters_of
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["absent_rows", "padding"]

OVERLAP: Final = re.compile(r"dice|tversky|iou|jaccard|lovasz|overlap", re.IGNORECASE)
"""What losses are called whose terms are whole pictures, whatever they are fed."""


@check(
    group="masking",
    statement="Appending a masked token to every row changes neither L nor the gradient.",
    over=("typical", "full", "holes"),
    why="The loss of a batch must not depend on the longest sequence it happened to be padded to.",
    cause="a mean over all positions, or a divisor that counts padded tokens.",
    fix="Divide by the number of trained tokens, mask.sum().clamp(min=1).",
    seen_in="linkedin/Liger-Kernel@33f7f487",
    applies=lambda trial: unless("stochastic")(trial) or (None if masks_anything(trial) else "it takes no mask"),
    requires=("scalar_output", "mask_value"),
    own_batch=True,
)
def padding(trial: Trial) -> None:
    if not any(slot.token_axis is not None for slot in trial.case.slots()):
        raise NotExercised("it has no token axis to pad")
    try:
        _require_unchanged(trial, append_masked_token(trial.case), "one masked token appended to every row")
    except Broken:
        _require_no_width_of_its_own(trial)
        raise
    for sign in (1.0, -1.0):
        # The least and the greatest over a row show a 0 that fills its masked places when all else is on one side of it.
        beyond = _on_one_side(trial.case, sign)
        if beyond is not None:
            said = f"outputs of the model all {'above' if sign > 0 else 'below'} 0, and one masked token appended to every row"
            _require_same_value(trial, append_masked_token(beyond), trial.evaluate(beyond), said)


@check(
    group="masking",
    statement="Appending a row of weight 0 changes neither L nor the gradient.",
    over=("typical", "full", "absent_rows"),
    why="Batches are filled up with empty rows; a row of weight 0 is absent, not a term of 0 in the mean.",
    cause="a divisor that counts rows instead of summing their weights.",
    fix="Divide by sample_mask.sum().clamp(min=1), or by global_valid_seqs when the batch carries it.",
    seen_in="pytorch/rl@65702c58a",
    applies=lambda trial: unless("stochastic")(trial) or (None if _masks_rows(trial) else "it reads no mask of rows"),
    requires=("scalar_output", "mask_value"),
    own_batch=True,
)
def absent_rows(trial: Trial) -> None:
    if any(slot.role == "pairs" for slot in trial.case.slots()):
        raise NotExercised("its rows are addressed by index")
    if _masks_parts_alone(trial.case):
        raise NotExercised("its mask is of other parts of a row than those that are trained")
    # A picture none of whose pixels counts may be a term of 0 in the mean over pictures.
    guessed = trial.foreign and not trial.facts.any_promised and bool(OVERLAP.search(trial.bench.subject.target))
    _require_unchanged(trial, append_masked_rows(trial.case), "one row of weight 0 appended", guessed=guessed)


def _masks_rows(trial: Trial) -> bool:
    slots = trial.case.slots()
    return any(
        (slot.role == "mask" and slot.token_axis is None and slot.row_axis is not None)
        # A label for each row takes the row out; a row whose every pixel is ignored still counts.
        or (slot.ignore is not None and slot.shape == ("B",))
        for slot in slots
    )


def _on_one_side(case: Case, sign: float) -> Case | None:
    moved = {
        slot.key: sign * (case.tensor(slot).abs() + 0.25)
        for slot in case.slots()
        if slot.trainable and slot.movable and slot.token_axis is not None and slot.role in ("values", "rewards")
    }
    if not moved:
        return None
    # Where a mask comes with the call, no token is left out beforehand.
    masks = [
        slot for slot in case.slots() if slot.role == "mask" and slot.place == ARGUMENT and slot.token_axis is not None
    ]
    return case.with_tensors(moved | {slot.key: torch.ones_like(case.tensor(slot)) for slot in masks})


def _require_same_value(trial: Trial, grown: Case, base: Evaluation, change: str) -> None:
    if bool(torch.isfinite(base.value)):
        trial.require_value(trial.evaluate(grown), base, change)


def _masks_parts_alone(case: Case) -> bool:
    """Return whether no mask is of whole rows or of what is trained: a picture without objects has its background."""
    masks = [
        slot for slot in case.slots() if slot.row_axis is not None and (slot.role == "mask" or slot.ignore is not None)
    ]
    trained = [slot.shape for slot in case.slots() if slot.trainable and slot.row_axis is not None]
    return all(any(mask.shape != shape[: len(mask.shape)] for shape in trained) for mask in masks)


def _require_no_width_of_its_own(trial: Trial) -> None:
    """Stop where the width is what the loss divides by as long as a number is not set that it would divide by instead.

    Raises:
        NotExercised: names the setting.
    """
    width = max(
        trial.case.tensor(slot).shape[slot.token_axis] for slot in trial.case.slots() if slot.token_axis is not None
    )
    for name in _not_set(trial) if trial.bench.subject.rebuild is not None else ():
        here, there = (
            evaluated_with(trial, case, {name: width}) for case in (trial.case, append_masked_token(trial.case))
        )
        if (
            here is not None
            and there is not None
            and abs(float(here.value - there.value)) <= trial.value_tolerance(here).bound
        ):
            raise NotExercised(f"it divides by the width of the batch as long as {name} is not set")


def _not_set(trial: Trial) -> list[str]:
    """Return the settings that are ``None``, and the arguments that are where no tensor is handed over."""
    fed = {slot.name for slot in trial.case.slots()}
    arguments = [p.name for p in parameters_of(trial.bench.subject.loss) if p.default is None and p.name not in fed]
    return [name for name, value in trial.bench.subject.settings.items() if value is None] + arguments


def _require_unchanged(trial: Trial, grown: Case, change: str, guessed: bool = False) -> None:
    base = trial.finite_base
    got = trial.evaluate(grown)
    trial.require_value(got, base, change, guessed=guessed)
    kept = {key: _old_part(gradient, base.gradients[key]) for key, gradient in got.gradients.items()}
    trial.require_gradients(kept, base.gradients, change, guessed=guessed)


def _old_part(grown: Tensor, old: Tensor) -> Tensor:
    for axis, size in enumerate(old.shape):
        grown = grown.narrow(axis, 0, size)
    return grown
