"""Two masks: each says of its own inputs which entries are padding."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from loss_conformance.cases.case import Case
from loss_conformance.cases.slot import Slot
from loss_conformance.cases.transform import other_content
from loss_conformance.checks.conditions import unless
from loss_conformance.checks.registry import check
from loss_conformance.evaluation import LossRaised, Malformed
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["own_mask"]


@check(
    group="masking",
    statement="Of two masks, each hides the inputs that bear its name: what lies beyond the shorter answer reaches nothing.",
    over=("typical", "full"),
    why="A comparison that runs to the end of the longer answer trains on the padding of the shorter one.",
    cause="the maximum of two masks (either one) for their minimum (both), or one mask for both sides.",
    fix="chosen * chosen_mask, rejected * rejected_mask; torch.minimum(...) where both are compared entry by entry.",
    seen_in="deepspeedai/DeepSpeedExamples#316",
    applies=lambda trial: unless("stochastic")(trial) or _unless_two(trial),
)
def own_mask(trial: Trial) -> None:
    tried = False
    for mask, model in _owned(trial.case):
        shorter = _shortened(trial.case, mask)
        tensor = trial.case.tensor(model).clone()
        hidden = (shorter.tensor(mask) == 0) & (trial.case.tensor(mask) != 0)
        tensor[hidden] = other_content(model, tensor)[hidden]
        try:
            base, got = trial.evaluate(shorter), trial.evaluate(shorter.with_tensors({model.key: tensor}))
        except (LossRaised, Malformed):
            continue  # answers of one length are all it takes
        if not bool(hidden.any()) or not bool(torch.isfinite(base.value)):
            continue
        tried = True
        declared = trial.facts.promised("fields")
        try:
            trial.require_same(got, base, f"{model.key} where {mask.key} is 0 and the other mask is not")
        except Broken as broken:
            broken.guessed, broken.of_gradient = broken.guessed or not declared, False
            broken.declare = "" if declared else "Contract(fields=...)"
            raise
    if not tried:
        raise NotExercised("no mask could be made shorter than the other")


def _unless_two(trial: Trial) -> str | None:
    masks = {mask.key for mask, _ in _owned(trial.case)}
    return None if len(masks) > 1 else "it has no two masks that share their names with an input each"


def _owned(case: Case) -> Iterator[tuple[Slot, Slot]]:
    """Yield each mask of tokens with an input of its own: the one that bears the rest of its name."""
    for mask in case.slots():
        words = mask.name.lower().split("_")
        if mask.role != "mask" or "mask" not in words or mask.shape[:2] not in (("B", "S"), ("B", "S-1")):
            continue
        own = {word for word in words if word not in ("mask", "masks", "attention", "response", "loss", "token")}
        for slot in case.slots():
            shares = own and own <= set(slot.name.lower().split("_")) and slot.shift == mask.shift
            if shares and slot.role not in ("mask", "labels", "token_ids") and slot.shape[:2] == mask.shape[:2]:
                yield mask, slot


def _shortened(case: Case, mask: Slot) -> Case:
    """Return the case with the last entry of every row of this mask taken out, where it has another one."""
    tensor = case.tensor(mask).clone()
    there = tensor != 0
    last = there & (there.flip(1).cumsum(1).flip(1) == 1) & (there.sum(1, keepdim=True) > 1)
    tensor[last] = 0
    return case.with_tensors({mask.key: tensor})
