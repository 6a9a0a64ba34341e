"""The user's own batch as a case: its fields recognised, its masks read, everything else handed through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.cases.slot import BATCH, MODEL_OUTPUTS, Schema, Slot, vocabulary_slot
from loss_reference.contract import Contract

__all__ = ["LARGEST_WIDENED", "OwnBatchError", "own_case"]

LARGEST_WIDENED = 10_000_000
"""A batch with more numbers than this is checked in its own precision rather than in float64."""


_COUNTS = ("global_valid_toks", "global_valid_seqs")


class OwnBatchError(ValueError):
    """A batch cannot be used as a case. Says what is missing and what was found."""


def own_case(
    batch: Mapping[str, Any], model_outputs: Mapping[str, Any], asked: set[str], contract: Contract, group: int
) -> Case:
    """Return the case made of a batch of the user's own, as far as the loss asked for it.

    A tensor outside the vocabulary and the contract is recognised by its sizes: [B], [B, S] and so on. What is not a
    tensor is left out here; the caller hands it through.

    Raises:
        OwnBatchError: there is no tensor from which the number of rows could be told.
    """
    named = {(BATCH, name): x for name, x in batch.items() if isinstance(x, Tensor)}
    named |= {(MODEL_OUTPUTS, name): x for name, x in model_outputs.items() if isinstance(x, Tensor)}
    rows, tokens = _rows_and_tokens(named)
    slots = tuple(_slot(place, name, x, contract, rows, tokens) for (place, name), x in named.items() if name in asked)
    tensors = {slot.key: named[slot.place, slot.name].detach().cpu() for slot in slots}
    # Counts the loss asked for and did not get: laws about microbatches state them.
    counts = (vocabulary_slot(BATCH, name, optional=True) for name in _COUNTS if name in asked and name not in batch)
    slots += tuple(slot for slot in counts if slot is not None)
    weights = named.get((BATCH, "sample_mask"), torch.ones(rows)).detach().cpu().to(torch.float64)
    mask = named.get((BATCH, "token_mask"))
    trained = torch.ones(rows, tokens, dtype=torch.bool) if mask is None else mask.detach().cpu() != 0
    trained = trained.clone()
    trained[:, 0] = False
    weights = weights.reshape(-1, group).amin(1).repeat_interleave(group)
    return Case(Schema(slots, group), tensors, trained, weights)


def _rows_and_tokens(named: Mapping[tuple[str, str], Tensor]) -> tuple[int, int]:
    for key in ((BATCH, "token_mask"), (BATCH, "input_ids"), (MODEL_OUTPUTS, "logits")):
        if key in named and named[key].dim() >= 2:
            return named[key].shape[0], named[key].shape[1]
    if (MODEL_OUTPUTS, "next_token_logprobs") in named:
        logprobs = named[MODEL_OUTPUTS, "next_token_logprobs"]
        return logprobs.shape[0], logprobs.shape[1] + 1
    rows = next((x.shape[0] for x in named.values() if x.dim() >= 1), None)
    if rows is None:
        raise OwnBatchError(f"no tensor with rows among {', '.join(name for _, name in named) or 'nothing'}")
    return rows, 2


def _slot(place: str, name: str, x: Tensor, contract: Contract, rows: int, tokens: int) -> Slot:
    known = vocabulary_slot(place, name, declared=contract.fields.get(name))
    if known is not None and len(known.shape) == x.dim():
        return replace(known, integer=not x.is_floating_point())
    # Rows come first, so that a batch of as many rows as tokens is still read right.
    of_tokens = {tokens: "S", tokens - 1: "S-1"}
    shape: list[str] = []
    for axis, size in enumerate(x.shape):
        letter = "B" if size == rows and axis == 0 else of_tokens.get(size, str(size))
        shape.append(letter if letter not in shape else str(size))
    trainable = place == MODEL_OUTPUTS and x.is_floating_point()
    shift = 1 if "S-1" in shape else 0
    return Slot(place, name, "values", "values", tuple(shape), shift, trainable, not x.is_floating_point())
