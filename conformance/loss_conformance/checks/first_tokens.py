"""The first token of a row: there in every mask a trainer makes, and predicted by nothing."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.cases.slot import Slot
from loss_conformance.cases.transform import other_content
from loss_conformance.checks.registry import check
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["first_token_is_no_term"]


@check(
    group="reduction",
    statement="Marking the first token of every row as trained changes nothing in a loss that reads no prediction of it.",
    over=("typical", "full"),
    why="Every row is divided by one token too many: short answers weigh less than long ones, and all less than they should.",
    cause="the divisor counts labels or a mask before they are shifted, the sum runs over what is left after.",
    fix="Count what the sum runs over: labels[:, 1:] != -100, token_mask[:, 1:].",
    seen_in="huggingface/transformers#46204",
    applies=lambda trial: None if _flags(trial.case) else "no mask or label of it speaks of a first token",
    requires=("scalar_output", "mask_value"),
)
def first_token_is_no_term(trial: Trial) -> None:
    base = trial.finite_base
    marked = trial.case.with_tensors({slot.key: _marked(slot, trial.case.tensor(slot)) for slot in _flags(trial.case)})
    got = trial.evaluate(marked)
    if _reads_first_tokens(trial, marked):
        raise NotExercised("it reads something of the first token, so that this is a term like any other")
    try:
        trial.require_same(got, base, f"{_names(trial.case)} of the first token of every row set")
    except Broken as broken:
        broken.of_gradient = False
        broken.guessed = broken.guessed or (trial.foreign and not trial.facts.promised("level"))
        broken.declare = "Contract(level=...)" if broken.guessed else ""
        raise


def _reads_first_tokens(trial: Trial, case: Case) -> bool:
    """Return whether the first token of a row has a gradient (one of two equal least entries), or moves L.

    One input at a time: a difference of two does not see both moved alike.
    """
    got = trial.evaluate(case)
    slopes = [got.gradients[slot.key] for slot in case.slots() if _of_first_token(slot) and slot.key in got.gradients]
    if any(bool((slope[:, 0] != 0).any()) for slope in slopes):
        return True
    return any(not torch.equal(got.value, trial.evaluate(each).value) for each in _with_other_first_tokens(case))


def _flags(case: Case) -> list[Slot]:
    """Return the inputs that say which tokens are trained, the first one among them."""
    return [slot for slot in case.slots() if _of_first_token(slot) and (slot.role == "mask" or slot.ignore is not None)]


def _of_first_token(slot: Slot) -> bool:
    return slot.shape[:2] == ("B", "S") and slot.shift == 0


def _marked(slot: Slot, tensor: Tensor) -> Tensor:
    first = torch.full_like(tensor, 0 if slot.ignore not in (None, 0) else 1)
    return torch.cat((first[:, :1], tensor[:, 1:]), dim=1)


def _with_other_first_tokens(case: Case) -> Iterator[Case]:
    """Yield the case with other content in one of the inputs that speak of the first token, masks left alone."""
    for slot in case.slots():
        if _of_first_token(slot) and slot.role != "mask":
            tensor = case.tensor(slot)
            other = torch.cat((other_content(slot, tensor)[:, :1], tensor[:, 1:]), dim=1)
            yield case.with_tensors({slot.key: other})


def _names(case: Case) -> str:
    return ", ".join(slot.key for slot in _flags(case))
