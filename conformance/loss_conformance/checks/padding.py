"""Padding: appending what weighs nothing changes nothing."""

from __future__ import annotations

from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.cases.transform import append_masked_rows, append_masked_token
from loss_conformance.checks.conditions import unless
from loss_conformance.checks.masking import masks_anything
from loss_conformance.checks.registry import check
from loss_conformance.trial import NotExercised, Trial

__all__ = ["absent_rows", "padding"]


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
    _require_unchanged(trial, append_masked_token(trial.case), "one masked token appended to every row")


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
    _require_unchanged(trial, append_masked_rows(trial.case), "one row of weight 0 appended")


def _masks_rows(trial: Trial) -> bool:
    slots = trial.case.slots()
    return any(
        (slot.role == "mask" and slot.token_axis is None and slot.row_axis is not None)
        # A label for each row takes the row out; a row whose every pixel is ignored still counts.
        or (slot.ignore is not None and slot.shape == ("B",))
        for slot in slots
    )


def _require_unchanged(trial: Trial, grown: Case, change: str) -> None:
    base = trial.finite_base
    got = trial.evaluate(grown)
    trial.require_value(got, base, change)
    kept = {key: _old_part(gradient, base.gradients[key]) for key, gradient in got.gradients.items()}
    trial.require_gradients(kept, base.gradients, change)


def _old_part(grown: Tensor, old: Tensor) -> Tensor:
    for axis, size in enumerate(old.shape):
        grown = grown.narrow(axis, 0, size)
    return grown
