"""Masking: what is masked reaches neither value nor gradient, and nothing else is masked."""

from __future__ import annotations

from typing import Final

from torch import Tensor

from loss_conformance.cases.slot import Slot
from loss_conformance.cases.transform import scramble
from loss_conformance.checks.context import looks_back
from loss_conformance.checks.registry import check
from loss_conformance.evaluation import Evaluation
from loss_conformance.report.numbers import number
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["mask_extreme", "mask_gradient", "mask_value", "masks_anything", "trained_ends"]

MASKED: Final = ("typical", "holes", "absent_rows", "square", "full")
FEWEST_ROWS: Final = 8
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
    reads_mask = any(slot.role == "mask" or slot.ignore is not None for slot in trial.case.slots())
    cause = "" if reads_mask else "it never reads token_mask, which says which tokens are trained on."
    for slot in _maskable(trial):
        changed = scramble(trial.case, slot, None)
        got = trial.evaluate(changed)
        # A blatant leak is told in terms of the value; an exact zero must also hold for the gradient.
        try:
            trial.require_same(got, base, _change(slot, trial.case.tensor(slot), changed.tensor(slot)), cause=cause)
        except Broken as broken:
            broken.guessed = broken.guessed or looks_back(trial, slot, base) or _teacher_may_speak_of_another(trial)
            raise


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
            try:
                trial.require_same(got, base, what, guessed=trial.foreign)
            except Broken as broken:
                broken.guessed = broken.guessed or _rows_left_out_afterwards(trial, slot, fill, got, base)
                raise


@check(
    group="masking",
    statement="The gradient is exactly 0 at masked positions.",
    over=("full", "typical", "holes", "on_policy"),
    why="A prompt token that gets gradient is memorised, a padding token drags the model towards nonsense.",
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


@check(
    group="masking",
    statement="The first and the last trained token of a row receive gradient in some of the rows that do.",
    over=("full",),
    why="An end-of-sequence token that never gets gradient is never learnt: generation does not stop.",
    cause="a mask shifted by one against the log-probabilities it multiplies.",
    fix="Slice log-probabilities and mask alike: position t of the logits goes with token_mask[:, t + 1].",
    seen_in="OpenRLHF/OpenRLHF@37aad73e",
    applies=lambda trial: None if masks_anything(trial) else "it takes no mask",
    requires=("scalar_output", "mask_value"),
)
def trained_ends(trial: Trial) -> None:
    seen: dict[tuple[str, str], list[bool]] = {}
    for case, base in trial.bench.cases_of(("full", "typical", "on_policy"), 6):
        for slot in case.slots():
            along_tokens = slot.token_axis is not None and slot.row_axis is not None
            if slot.key in base.gradients and along_tokens and not slot.later:
                for row in _trained_gradients(base.gradients[slot.key], case.active(slot)):
                    # A row that gets nothing (a clipped ratio, a plateau), or gets it at one token alone (the last, or
                    # the worst of its steps), says nothing about its ends.
                    if int(row.sum()) >= 2:
                        seen.setdefault((slot.key, "first"), []).append(bool(row[0]))
                        seen.setdefault((slot.key, "last"), []).append(bool(row[-1]))
    if not any(len(rows) >= FEWEST_ROWS for rows in seen.values()):
        raise NotExercised("too few rows with three trained tokens")
    for (key, end), rows in seen.items():
        if len(rows) >= FEWEST_ROWS and not any(rows):
            raise Broken(
                f"gradient of {key} is 0 at the {end} trained token of all {len(rows)} rows", "not 0 everywhere"
            )


def _trained_gradients(gradient: Tensor, active: Tensor) -> list[Tensor]:
    """Return, for each row with at least three trained tokens, which of them receive gradient."""
    while gradient.dim() > 2:
        gradient, active = gradient.abs().amax(-1), active[..., 0]
    return [(g != 0)[a] for g, a in zip(gradient, active, strict=True) if int(a.sum()) >= 3]


def _rows_left_out_afterwards(trial: Trial, slot: Slot, fill: float, got: Evaluation, base: Evaluation) -> bool:
    """Return whether the value holds and only rows that are left out show it, whose tokens seldom hold anything infinite."""
    present = (trial.case.rows != 0).reshape(-1, *[1] * (trial.case.tensor(slot).dim() - 1))
    if slot.row_axis != 0 or bool(present.all()) or trial.moves(got, base)[0]:
        return False
    padding = scramble(trial.case, slot, fill, ~trial.case.active(slot) & present)
    return not any(trial.moves(trial.evaluate(padding), base))


def _teacher_may_speak_of_another(trial: Trial) -> bool:
    """Return whether nothing says which tokens the scores of a teacher speak of.

    An ignored label need not silence a teacher of every token, and a draft may learn what its teacher says one token later.
    """
    slots = trial.case.slots()
    taught = any(slot.kind == "batch.teacher_logits" for slot in slots)
    unsaid = all(slot.role != "mask" for slot in slots) or any(slot.name.startswith("draft") for slot in slots)
    return taught and unsaid and trial.foreign and not trial.facts.any_promised


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
