"""Masking: what is masked reaches neither value nor gradient, and nothing else is masked."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from loss_conformance.cases.slot import Slot
from loss_conformance.cases.transform import scramble
from loss_conformance.checks.registry import check
from loss_conformance.report.numbers import number
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["mask_extreme", "mask_gradient", "mask_value"]

MASKED: Final = ("typical", "holes", "absent_rows", "square", "full")
# Structure, not content: changing it changes what is masked.
STRUCTURE: Final = ("mask", "count", "lengths", "pairs")


@check(
    group="masking",
    statement="L(batch) must not change when only content at masked positions changes.",
    over=MASKED,
    why="Padding and prompt tokens train the model: the loss depends on how the batch was padded.",
    cause="the mask multiplies after the mean, is shifted by one, or one operand of a difference is unmasked.",
    fix="where(mask, x, 0) before exp and log; divide by mask.sum().clamp(min=1), not by the number of entries.",
    seen_in="volcengine/verl#2377",
    applies=lambda trial: None if masks_anything(trial) else "it takes no mask",
    own_batch=True,
)
def mask_value(trial: Trial) -> None:
    base = trial.finite_base
    for slot in _maskable(trial):
        changed = scramble(trial.case, slot, None)
        got = trial.evaluate(changed)
        # A blatant leak is told in terms of the value; an exact zero must also hold for the gradient.
        trial.require_same(got, base, _change(slot, trial.case.tensor(slot), changed.tensor(slot)))


@check(
    group="masking",
    statement="L(batch) must not change when masked positions hold ±1e10, ±inf or NaN.",
    over=("typical", "holes", "absent_rows"),
    why="Padding holds whatever the last kernel left there, and NaN times a mask of 0 is NaN.",
    cause="multiplying by the mask (NaN * 0 = NaN), or masking after exp or log instead of before.",
    fix="Replace masked inputs first, where(mask, x, 0), then compute, then mask the result again.",
    seen_in="volcengine/verl#2377",
    applies=lambda trial: None if masks_anything(trial) else "it takes no mask",
    requires=("scalar_output", "mask_value"),
    own_batch=True,
)
def mask_extreme(trial: Trial) -> None:
    base = trial.finite_base
    for slot in _maskable(trial):
        if slot.integer:
            continue
        for fill in (1e10, -1e10, float("inf"), float("-inf"), float("nan")):
            changed = scramble(trial.case, slot, fill)
            got = trial.evaluate(changed)
            what = _change(slot, trial.case.tensor(slot), changed.tensor(slot))
            trial.require_same(got, base, what, guessed=trial.foreign)


@check(
    group="masking",
    statement="The gradient is exactly 0 at masked positions, and the first and last trained tokens get theirs.",
    over=("full", "typical", "holes", "on_policy"),
    why="An end-of-sequence token that never gets gradient is never learnt; a prompt token that does is memorised.",
    cause="a mask that is not shifted with the log-probabilities it multiplies: off by one at both ends.",
    fix="Slice log-probabilities and mask alike: position t of the logits goes with token_mask[:, t + 1].",
    seen_in="CarperAI/trlx@fbc9e04",
    applies=lambda trial: None if masks_anything(trial) else "it takes no mask",
    requires=("scalar_output", "mask_value"),
    own_batch=True,
)
def mask_gradient(trial: Trial) -> None:
    base = trial.finite_base
    for slot in trial.case.slots():
        gradient = base.gradients.get(slot.key)
        if gradient is None:
            continue
        active = trial.case.active(slot)
        stray = (gradient != 0) & ~active
        if bool(stray.any()):
            position = ",".join(str(int(i)) for i in stray.nonzero()[0])
            raise Broken(f"gradient of {slot.key}[{position}] = {number(gradient[stray][0])}", "exactly 0 (masked)")
        if slot.token_axis is not None and slot.row_axis is not None:
            _require_ends(slot, gradient, active)


def _require_ends(slot: Slot, gradient: Tensor, active: Tensor) -> None:
    """Demand that the first and last trained tokens are not left out in every row whose other tokens get gradient."""
    while gradient.dim() > 2:
        gradient, active = gradient.abs().amax(-1), active[..., 0]
    rows = [(g != 0)[a] for g, a in zip(gradient, active, strict=True) if int(a.sum()) >= 2]
    if len(rows) < 2:
        return
    for end, name in ((0, "first"), (-1, "last")):
        others = [torch.cat((row[1:], row[:0])) if end == 0 else row[:-1] for row in rows]
        if not any(bool(row[end]) for row in rows) and all(bool(other.any()) for other in others):
            raise Broken(f"gradient of {slot.key} is 0 at the {name} trained token of every row", "a gradient there too")


def masks_anything(trial: Trial) -> bool:
    """Return whether the law applies: a mask is read, or the batch interface promises that there is one."""
    reads_mask = any(slot.role == "mask" or slot.ignore is not None for slot in trial.case.slots())
    token_level = any(slot.token_axis is not None and slot.place != "argument" for slot in trial.case.slots())
    return reads_mask or token_level


def _maskable(trial: Trial) -> list[Slot]:
    slots = [
        slot
        for slot in trial.case.slots()
        if slot.role not in STRUCTURE and slot.ignore is None and bool((~trial.case.active(slot)).any())
    ]
    if not slots:
        raise NotExercised("nothing is masked in this case")
    return slots


def _change(slot: Slot, before: Tensor, after: Tensor) -> str:
    differs = ~((before == after) | (before.isnan() & after.isnan()))
    if not bool(differs.any()):
        return slot.key
    position = [int(i) for i in differs.nonzero()[0]]
    where = ",".join(map(str, position))
    old, new = number(before[tuple(position)]), number(after[tuple(position)])
    more = int(differs.sum()) - 1
    return f"{slot.key}[{where}]: {old} → {new}   (masked{f', and {more} more' if more else ''})"
