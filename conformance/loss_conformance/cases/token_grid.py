"""Inputs of any alignment on one token grid [B, S] and back, and cases in which policies, or tokens, are made alike."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.cases.documents import DOCUMENTS
from loss_conformance.cases.slot import Slot

__all__ = [
    "LOGPROBS",
    "OTHER_POLICIES",
    "of_tokens",
    "on_policy",
    "policy_logprobs",
    "policy_slopes",
    "rows_of_equal_tokens",
]

OTHER_POLICIES: Final = ("batch.prev_logprobs", "batch.generation_logprobs", "batch.reference_policy_logprobs")
"""Kinds that equal the trained policy where training has not moved yet."""

LOGPROBS: Final = "model_outputs.next_token_logprobs"
LOGITS: Final = "model_outputs.logits"
VARIES_BY_TOKEN: Final = ("B", "S", "S-1", "V", "K")


def of_tokens(case: Case, slot: Slot, tensor: Tensor) -> Tensor:
    """Return ``tensor``, [B, S', ...] or [B] in the alignment of ``slot``, as [B, S, ...] whose entry t speaks of token t.

    Tokens it does not speak of get 0; one entry per row speaks of all its tokens.
    """
    rows, tokens = case.trained.shape
    if slot.token_axis is None:
        return tensor[:, None].expand(rows, tokens)
    grid = tensor.new_zeros((rows, tokens, *tensor.shape[2:]))
    known = min(tensor.shape[1], tokens - slot.shift)
    grid[:, slot.shift : slot.shift + known] = tensor[:, :known]
    return grid


def policy_logprobs(case: Case) -> Tensor | None:
    """Return the log-probability of every token under the trained policy, [B, S], or ``None`` when none is given."""
    slot = case.schema.find(LOGPROBS)
    if slot is not None and slot.key in case.tensors:
        return of_tokens(case, slot, case.tensor(slot))
    logits = _logits_of_tokens(case)
    return None if logits is None else _at_sampled(case, of_tokens(case, logits, case.tensor(logits).log_softmax(-1)))


def policy_slopes(case: Case, gradients: dict[str, Tensor]) -> Tensor | None:
    """Return how L changes with the score of every sampled token, [B, S]: of its log-probability, or of its logit."""
    slot = case.schema.find(LOGPROBS)
    if slot is not None and slot.key in gradients:
        return of_tokens(case, slot, gradients[slot.key])
    logits = _logits_of_tokens(case)
    if logits is None or logits.key not in gradients:
        return None
    return _at_sampled(case, of_tokens(case, logits, gradients[logits.key]))


def on_policy(case: Case) -> Case | None:
    """Return the case with every other policy equal to the trained one, or ``None`` when that one is not an input."""
    own = policy_logprobs(case)
    if own is None:
        return None
    policy = case.schema.find(LOGPROBS)
    changed = {}
    for slot in case.slots():
        if slot.kind not in OTHER_POLICIES:
            continue
        if slot.token_axis is not None:
            changed[slot.key] = _in_alignment(own, slot, case.tensor(slot))
        elif policy is not None and policy.token_axis is None:
            changed[slot.key] = case.tensor(policy).clone()
    return case.with_tensors(changed)


def rows_of_equal_tokens(case: Case, length: int | None = None) -> Case | None:
    """Return the case with the content of one trained token at every place, or ``None`` when an axis has no known meaning.

    Row r is trained on its first 1, 2, 3, ... tokens and on none after (or each on its first ``length``), so rows differ in
    their length and in nothing else.
    """
    trained = (case.trained & (case.rows != 0)[:, None]).nonzero()
    mask = case.schema.find("batch.token_mask")
    if not len(trained) or mask is None or mask.key not in case.tensors or mask.shape not in (("B", "S"), ("B", "S-1")):
        return None
    row, token = (int(i) for i in trained[0])
    rows, tokens = case.trained.shape
    position = torch.arange(tokens)
    lengths = 1 + torch.arange(rows) % (tokens - 1) if length is None else torch.full((rows,), length)
    shorter = (position > 0) & (position <= lengths[:, None])
    changed = {}
    for slot in case.slots():
        # Another mask, or a length, would cut off what is trained now.
        if slot.role == "mask" and slot.token_axis == 1:
            changed[slot.key] = _of_slot(shorter, slot, case.tensor(slot))
        if slot.role == "lengths" and slot.shape == ("B",):
            changed[slot.key] = torch.full_like(case.tensor(slot), tokens)
        structure = slot.role in ("mask", "count", "lengths") and slot.kind != DOCUMENTS
        if structure or slot.row_axis is None:
            continue
        axis = slot.token_axis
        known = slot.row_axis == 0 and slot.ignore is None and set(slot.shape) <= set(VARIES_BY_TOKEN)
        if not known or axis not in (None, 1):
            return None
        tensor = case.tensor(slot)
        one = tensor[row] if axis is None else tensor[row, min(max(token - slot.shift, 0), tensor.shape[1] - 1)]
        changed[slot.key] = one.expand(tensor.shape).clone()
    return replace(case.with_tensors(changed), trained=shorter)


def _of_slot(grid: Tensor, slot: Slot, before: Tensor) -> Tensor:
    """Return a [B, S] mask in the alignment and the shape of ``slot``."""
    speaks_of = torch.arange(before.shape[1]) + slot.shift
    inside = (speaks_of >= 0) & (speaks_of < grid.shape[1])
    moved = grid.index_select(1, speaks_of.clamp(0, grid.shape[1] - 1)) & inside
    return moved.reshape(*moved.shape, *[1] * (before.dim() - 2)).expand(before.shape).to(before)


def _logits_of_tokens(case: Case) -> Slot | None:
    logits, ids = case.schema.find(LOGITS), case.schema.find("batch.input_ids")
    readable = logits is not None and ids is not None and logits.token_axis == 1 and ids.token_axis == 1
    return logits if readable else None


def _at_sampled(case: Case, grid: Tensor) -> Tensor:
    ids = case.schema.find("batch.input_ids")
    assert ids is not None
    # An ignored label (-100) has no entry of its own.
    sampled = of_tokens(case, ids, case.tensor(ids)).clamp(min=0)
    return grid.gather(-1, sampled.unsqueeze(-1)).squeeze(-1)


def _in_alignment(grid: Tensor, slot: Slot, before: Tensor) -> Tensor:
    """Return [B, S] numbers in the alignment of ``slot``; entries that speak of no predicted token stay as they are."""
    speaks_of = torch.arange(before.shape[1]) + slot.shift
    inside = (speaks_of > 0) & (speaks_of < grid.shape[1])
    moved = grid.index_select(1, speaks_of.clamp(max=grid.shape[1] - 1))
    return torch.where(inside, moved, before)
