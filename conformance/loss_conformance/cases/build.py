"""From a plan to a case: coherent tensors, in which lengths, masks, indices and log-probabilities agree.

Everything is made once on a token grid [B, S] whose entry t speaks of token t, the *world*; a slot is then a view of
it, shifted to its own alignment. All numbers are float32 values held in float64, so the two precisions see the same input.
"""

from __future__ import annotations

import torch
from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.cases.label_values import BINARY, BOOLEAN, with_ignored
from loss_conformance.cases.masks import row_weights, token_mask
from loss_conformance.cases.plan import Plan
from loss_conformance.cases.slot import BATCH, Schema, Slot
from loss_conformance.cases.values import World, outside_vocabulary

__all__ = ["build"]


def build(schema: Schema, plan: Plan) -> Case:
    """Return the case a plan describes, for a loss with this schema."""
    generator = torch.Generator().manual_seed(plan.seed)
    groups = max(plan.rows, 2) if any(slot.role == "pairs" for slot in schema.slots) else plan.rows
    rows = groups * schema.group
    tokens = rows + plan.seed % 2 if plan.situation == "square" else plan.tokens
    tokens = max(tokens, 2)
    trained = token_mask(plan.mask, rows, tokens, generator)
    weights = row_weights(plan.samples, groups, generator)
    weights = weights.repeat_interleave(schema.group)
    if not ({"batch.sample_mask", "rows_mask"} & schema.kinds()):
        # Labels can take a row out by being ignored, but not weigh it.
        ignorable = any(slot.ignore is not None and slot.token_axis is None for slot in schema.slots)
        weights = (weights != 0).to(weights) if ignorable else torch.ones_like(weights)
    found_or_not = any(slot.kind == BINARY or _is_share(slot) for slot in schema.slots)
    world = World(plan, rows, tokens, trained, weights, generator, schema.paired, found_or_not)
    tensors: dict[str, Tensor] = {}
    for slot in schema.slots:
        if slot.optional and not plan.counts and _dispensable(slot):
            continue
        tensors[slot.key] = _fill(slot, world)
    if plan.situation == "bare" and "batch.sample_mask" in schema.kinds():
        weights = torch.ones(rows, dtype=torch.float64)
    return Case(schema, tensors, trained, weights, plan)


def _is_share(slot: Slot) -> bool:
    return slot.role == "probabilities" and not slot.trainable and slot.shape[-1:] != ("V",)


def _dispensable(slot: Slot) -> bool:
    # The optional inputs that state a default of this very batch: leaving them out changes nothing else.
    return slot.place == BATCH and slot.kind in {"batch.global_valid_toks", "batch.global_valid_seqs"}


def _fill(slot: Slot, world: World) -> Tensor:
    tensor = world.make(slot)
    if tensor is None:
        tensor = outside_vocabulary(slot, world)
    if slot.shape[-1:] == ("1",) and tensor.dim() == len(slot.shape) - 1:
        tensor = tensor.unsqueeze(-1)  # a head with one output
    if slot.ignore is not None:
        tensor = with_ignored(tensor, slot, world)
    if slot.kind == BOOLEAN or (slot.role == "mask" and slot.integer):
        return tensor.bool()
    return tensor if slot.integer else tensor.to(torch.float32).to(torch.float64)
