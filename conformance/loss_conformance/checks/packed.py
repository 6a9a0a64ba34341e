"""Packed rows: several documents in one, none of which predicts the beginning of the next."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.cases.documents import DOCUMENTS
from loss_conformance.cases.slot import Slot
from loss_conformance.cases.transform import other_content
from loss_conformance.checks.conditions import unless
from loss_conformance.checks.registry import check
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["document_count", "document_edges"]

COUNTED: Final = "the divisor counts labels that the document ids leave out of the sum."


@check(
    group="masking",
    statement="Document ids leave out the first token of each document but the first of the row, and no other token.",
    over=("full",),
    why="A model that learns to predict the beginning of a document from the end of another one learns noise.",
    cause="ids[:, 1:] == ids[:, :-1] laid against the logits one place off.",
    fix="ids[:, 1:] == ids[:, :-1] belongs to labels[:, 1:] and logits[:, :-1], entry by entry.",
    seen_in="meta-pytorch/torchtune#2613",
    applies=lambda trial: unless("stochastic")(trial) or _unless_packed(trial),
)
def document_edges(trial: Trial) -> None:
    packed, first = _packed(trial.case)
    base, got = trial.finite_base, trial.evaluate(packed)
    dropped = None
    for slot in packed.slots():
        if slot.key not in base.gradients or slot.token_axis != 1 or slot.row_axis != 0:
            continue
        reached = _reached(base.gradients[slot.key])
        left_out = reached & ~_reached(got.gradients[slot.key])
        if not bool(left_out.any()):
            continue
        allowed = _allowed(slot, first)
        dropped = next((at for at in allowed if torch.equal(left_out, reached & _along(packed, slot, at))), None)
        if dropped is not None:
            continue
        # As many as there are edges, but others, are these edges misplaced; anything else may be another use of the ids.
        misplaced = torch.equal(left_out.sum(1), first.sum(1))
        raise Broken(
            f"{slot.key} does not matter at {_places(left_out)}",
            f"it matters there, and not at {_places(reached & _along(packed, slot, first))}",
            changed=f"{_slot(packed).key}: another document from {_places(first)} on",
            guessed=not misplaced,
        )
    if dropped is None:
        raise NotExercised("it leaves no token out where a document begins")
    for slot in _labels(packed):
        labels = packed.tensor(slot)
        there = _along(packed, slot, dropped)
        what = f"{slot.key} where another document begins, at {_places(first)}"
        changed = packed.with_tensors({slot.key: torch.where(there, other_content(slot, labels), labels)})
        trial.require_same(trial.evaluate(changed), got, what)
        if slot.ignore is not None:
            # A divisor that counts every label may be somebody's convention.
            ignored = packed.with_tensors({slot.key: labels.masked_fill(there, slot.ignore)})
            trial.require_same(trial.evaluate(ignored), got, f"{what}, ignored", guessed=True, cause=COUNTED)


@check(
    group="reduction",
    statement="Document ids take nothing off the divisor for tokens that are not trained on anyway.",
    over=("full",),
    why="Each edge that is counted out twice makes the step larger: its scale follows how many documents a row holds.",
    cause="the edges subtracted from a count of labels that leaves them out already.",
    fix="Divide by (same_document & (labels != -100)).sum().",
    seen_in="unslothai/unsloth-zoo#1066",
    applies=lambda trial: unless("stochastic")(trial) or _unless_packed(trial),
    requires=("scalar_output", "document_edges"),
)
def document_count(trial: Trial) -> None:
    packed, first = _packed(trial.case)
    case = _untrained(trial.case, first)
    ids = _slot(packed).key
    alone, got = trial.evaluate(case), trial.evaluate(case.with_tensors({ids: packed.tensors[ids]}))
    edges, tokens = int(first.sum()), int(case.trained.sum())
    bound = trial.value_tolerance(alone).bound
    # Only this one number: a mean of each document, too, is another one than that of all tokens.
    twice = alone.value * tokens / (tokens - edges)
    if bool((got.value - alone.value).abs() > bound) and bool((got.value - twice).abs() <= bound):
        raise Broken(
            got.value,
            alone.value,
            changed=f"{ids}: another document from {_places(first)} on, none of them a trained token",
            cause=f"L is divided by {tokens - edges} for {tokens} trained tokens: {edges} edges are taken off once more.",
        )


def _unless_packed(trial: Trial) -> str | None:
    for schema in trial.bench.schemas:
        says = any(
            slot.token_axis is not None and (slot.role == "mask" or slot.ignore is not None) for slot in schema.slots
        )
        if schema.find(DOCUMENTS) is not None and says:
            return None
    return "it reads no document ids beside labels or a mask"


def _slot(case: Case) -> Slot:
    slot = case.schema.find(DOCUMENTS)
    if slot is None or slot.key not in case.tensors:
        raise NotExercised("this case has no document ids")
    return slot


def _packed(case: Case) -> tuple[Case, Tensor]:
    """Return the case with a second document in every row, and where it begins: at another token in each, all trained."""
    slot, (rows, tokens) = _slot(case), case.trained.shape
    if tokens < 4 or not bool(case.trained[:, 1:].all()) or bool((case.rows == 0).any()):
        raise NotExercised("its rows are too short for two documents, or not all of their tokens are trained on")
    begin = 2 + torch.arange(rows)[:, None] % (tokens - 3)
    position = torch.arange(tokens).expand(rows, tokens)
    ids = case.tensor(slot)
    later = (position >= begin)[:, slot.shift : slot.shift + ids.shape[1]]
    return case.with_tensors({slot.key: ids[:, :1] + later.to(ids)}), position == begin


def _allowed(slot: Slot, first: Tensor) -> list[Tensor]:
    """Return the tokens that may be left out, [B, S]: the first ones, or the last where labels are shifted beforehand."""
    return [first] if slot.shift else [first, first.roll(-1, 1)]


def _along(case: Case, slot: Slot, tokens: Tensor) -> Tensor:
    """Return the entries [B, ...] of an input that speak of these tokens, whatever axis follows."""
    there = replace(case, trained=tokens).active(slot)
    return there.flatten(2).any(-1) if there.dim() > 2 else there


def _reached(gradient: Tensor) -> Tensor:
    return (gradient != 0).flatten(2).any(-1) if gradient.dim() > 2 else gradient != 0


def _labels(case: Case) -> list[Slot]:
    return [slot for slot in case.slots() if slot.role in ("labels", "token_ids") and slot.shape[:2] == ("B", "S")]


def _untrained(case: Case, where: Tensor) -> Case:
    """Return the case without these tokens: their labels ignored, their masks 0."""
    spoken_of = replace(case, trained=where)
    changed = {}
    for slot in case.slots():
        out = 0 if slot.role == "mask" else slot.ignore
        if slot.token_axis is not None and out is not None:
            changed[slot.key] = case.tensor(slot).masked_fill(spoken_of.active(slot), out)
    return replace(case.with_tensors(changed), trained=case.trained & ~where)


def _places(where: Tensor) -> str:
    row, token = (int(i) for i in where.nonzero()[0])
    more = int(where.sum()) - 1
    return f"[{row},{token}]" + (f" and {more} more" if more else "")
