"""The transformations laws are made of: scramble, permute, select, pad."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.cases.documents import DOCUMENTS
from loss_conformance.cases.slot import Slot

__all__ = [
    "append_masked_rows",
    "append_masked_token",
    "group_size",
    "microbatches",
    "other_content",
    "repeat_rows",
    "repeat_tokens",
    "repeat_tokens_of",
    "scramble",
    "select_rows",
    "take_rows",
    "with_counts",
]


def group_size(case: Case) -> int:
    """Return how many neighbouring rows belong together: 2 for pairs."""
    return case.schema.group


def scramble(case: Case, slot: Slot, fill: float | None, where: Tensor | None = None) -> Case:
    """Return the case with the inactive entries of one input replaced: by other legal content, or by ``fill``."""
    tensor = case.tensor(slot)
    inactive = ~case.active(slot) if where is None else where
    content = other_content(slot, tensor) if fill is None else torch.full_like(tensor, fill)
    return case.with_tensors({slot.key: torch.where(inactive, content, tensor)})


def other_content(slot: Slot, tensor: Tensor) -> Tensor:
    """Return legal content of the same kind that differs from ``tensor`` in every entry."""
    if slot.integer:
        highest = int(tensor.max()) if tensor.numel() else 0
        return torch.where(tensor > 0, tensor - 1, min(1, highest))
    ramp = torch.arange(tensor.numel(), dtype=tensor.dtype).reshape(tensor.shape) % 7
    base = torch.where(torch.isfinite(tensor), tensor, torch.zeros_like(tensor))
    if slot.role == "logprobs":
        return torch.clamp(base, max=0.0) - 1.0 - ramp / 4
    if slot.role == "probabilities":
        return torch.where(base < 0.5, base + 0.25, base - 0.25)
    return base + 1.5 + ramp / 2


def take_rows(case: Case, rows: Tensor) -> Case:
    """Return the case of these rows alone, other inputs untouched. Indices of rows stay as they are."""
    return _select(case, rows)


def microbatches(case: Case, bounds: list[int]) -> list[Case]:
    """Return the parts of the case between these bounds, counted in groups of rows; other inputs untouched."""
    size = group_size(case)
    return [take_rows(case, torch.arange(size * low, size * high)) for low, high in pairwise(bounds) if low < high]


def select_rows(case: Case, rows: Tensor) -> Case:
    """Return the case with its rows in another order, indices of rows following them."""
    moved = _select(case, rows)
    new_place = torch.empty_like(rows)
    new_place[rows] = torch.arange(len(rows))
    followed = {s.key: new_place[case.tensor(s)] for s in case.slots() if s.role == "pairs" and s.row_axis is None}
    return moved.with_tensors(followed)


def _select(case: Case, rows: Tensor) -> Case:
    tensors = {
        slot.key: case.tensor(slot).index_select(slot.row_axis, rows)
        for slot in case.slots()
        if slot.row_axis is not None
    }
    return replace(case.with_tensors(tensors), trained=case.trained[rows], rows=case.rows[rows])


def append_masked_token(case: Case) -> Case:
    """Return the case with one more token on the right that is not trained on, holding content."""
    grown: dict[str, Tensor] = {}
    for slot in case.slots():
        axis = slot.token_axis
        if axis is None:
            continue
        tensor = case.tensor(slot)
        last = tensor.narrow(axis, tensor.shape[axis] - 1, 1)
        extra = torch.zeros_like(last) if slot.role == "mask" else other_content(slot, last)
        extra = last if slot.kind == DOCUMENTS else extra
        extra = torch.full_like(last, slot.ignore) if slot.ignore is not None else extra
        grown[slot.key] = torch.cat((tensor, extra), dim=axis)
    trained = torch.cat((case.trained, torch.zeros_like(case.trained[:, :1])), dim=1)
    return replace(case.with_tensors(grown), trained=trained)


def append_masked_rows(case: Case) -> Case:
    """Return the case with one more row, or pair of rows, that weighs nothing, holding content."""
    size = group_size(case)
    grown: dict[str, Tensor] = {}
    for slot in case.slots():
        axis = slot.row_axis
        if axis is None:
            continue
        tensor = case.tensor(slot)
        first = tensor.narrow(axis, 0, size)
        masks_rows = slot.role == "mask" and slot.token_axis is None
        as_it_is = slot.role == "mask" or slot.kind == DOCUMENTS
        extra = torch.zeros_like(first) if masks_rows else first if as_it_is else other_content(slot, first)
        extra = torch.full_like(first, slot.ignore) if slot.ignore is not None else extra
        grown[slot.key] = torch.cat((tensor, extra), dim=axis)
    return replace(
        case.with_tensors(grown),
        trained=torch.cat((case.trained, case.trained[:size])),
        rows=torch.cat((case.rows, torch.zeros_like(case.rows[:size]))),
    )


def repeat_rows(case: Case, times: int) -> Case:
    """Return the case with the whole batch standing there ``times`` times, counts multiplied."""
    counts = {slot.key: times * case.tensor(slot) for slot in case.slots() if slot.role == "count"}
    return take_rows(case, torch.arange(len(case.rows)).repeat(times)).with_tensors(counts)


def repeat_tokens(case: Case) -> Case:
    """Return the case with every token but the first standing twice, counts of tokens doubled."""
    tokens = case.trained.shape[1]
    source = torch.tensor([0, *(token for token in range(1, tokens) for _ in range(2))])
    grown: dict[str, Tensor] = {}
    for slot in case.slots():
        axis = slot.token_axis
        if slot.kind == "batch.global_valid_toks":
            grown[slot.key] = 2 * case.tensor(slot)
        elif axis is not None:
            length = len(source) - (tokens - case.tensor(slot).shape[axis])
            speaks_of = source[(torch.arange(length) + slot.shift).clamp(max=len(source) - 1)]
            entry = (speaks_of - slot.shift).clamp(min=0, max=case.tensor(slot).shape[axis] - 1)
            grown[slot.key] = case.tensor(slot).index_select(axis, entry)
    return replace(case.with_tensors(grown), trained=case.trained[:, source])


def repeat_tokens_of(case: Case, rows: Tensor) -> Case | None:
    """Return the case with every token but the first standing twice in these rows, the others filled up with masked ones.

    ``None`` where an input does not say which row and token each entry speaks of.
    """
    tokens = case.trained.shape[1]
    twice = torch.tensor([0, *(token for token in range(1, tokens) for _ in range(2))])
    once = torch.arange(len(twice)).clamp(max=tokens - 1)
    source = torch.where(rows[:, None], twice, once)
    filling = ~rows[:, None] & (torch.arange(len(twice)) >= tokens)
    grown: dict[str, Tensor] = {}
    for slot in case.slots():
        tensor = case.tensor(slot)
        if slot.kind == "batch.global_valid_toks":
            grown[slot.key] = tensor + case.weight[rows].sum().to(tensor)
        elif slot.role == "lengths" or slot.later:
            return None
        elif slot.token_axis is not None:
            if slot.row_axis != 0 or slot.token_axis != 1:
                return None
            speaks_of = torch.arange(len(twice) - (tokens - tensor.shape[1])) + slot.shift
            inside = speaks_of.clamp(max=len(twice) - 1)
            entry = (source[:, inside] - slot.shift).clamp(min=0, max=tensor.shape[1] - 1)
            longer = tensor[torch.arange(len(rows))[:, None], entry]
            filled = filling[:, inside].reshape(*entry.shape, *(1 for _ in tensor.shape[2:]))
            nothing = 0 if slot.role == "mask" else slot.ignore
            grown[slot.key] = longer if nothing is None else longer.masked_fill(filled, nothing)
    trained = case.trained[torch.arange(len(rows))[:, None], source] & ~filling
    return replace(case.with_tensors(grown), trained=trained)


def with_counts(case: Case) -> Case:
    """Return the case with the global counts a loss can read, where they are missing those of this very batch."""
    missing = [s for s in case.schema.slots if s.role == "count" and s.key not in case.tensors]
    local = {"batch.global_valid_toks": case.weight.sum(), "batch.global_valid_seqs": case.rows.sum()}
    return case.with_tensors({slot.key: local[slot.kind] for slot in missing if slot.kind in local})
