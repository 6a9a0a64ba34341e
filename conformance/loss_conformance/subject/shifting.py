"""How far ahead the scores of a position speak, found from the gradient they get."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace
from typing import Final

from torch import Tensor

from loss_conformance.cases.slot import Schema, Slot
from loss_conformance.subject.probe import Probe

__all__ = ["shifted"]

_FARTHEST: Final = 4
_OF_POSITIONS: Final = (("logits", ("B", "S", "V")), ("embeddings", ("B", "S", "D")))
"""Scores, and the hidden states a loss makes scores of itself."""


def shifted(schema: Schema, outcome: Probe, known: Container[str]) -> Schema:
    """Return the schema with scores aligned as the loss aligns them: some shift labels and masks by one themselves.

    Args:
        schema: the inputs of the loss.
        outcome: what it made of them.
        known: names of inputs of which it is known which token they speak of.
    """
    says = any((s.ignore is not None or s.role == "mask") and s.token_axis is not None for s in schema.slots)
    if not says or outcome.case is None:
        return schema
    gradients, trained = outcome.gradients or {}, outcome.case.trained
    unsaid = [s for s in schema.slots if (s.role, s.shape) in _OF_POSITIONS and s.name not in known]
    if not any(s.kind == "model_outputs.logits" or (s.integer and s.token_axis is not None) for s in schema.slots):
        return schema  # beside a mask alone whatever the loss does would be right
    found = {slot.key: _shift(gradients[slot.key], trained) for slot in unsaid if slot.key in gradients}
    if not found:
        return schema
    # What is compared with them position by position, the logits of a teacher, speaks of the same tokens.
    first = next(iter(found.values()))
    shifts = {slot.key: found.get(slot.key, first) for slot in unsaid}
    return replace(schema, slots=tuple(_moved(s, shifts[s.key]) if s.key in shifts else s for s in schema.slots))


def _moved(slot: Slot, shift: int) -> Slot:
    return replace(slot, shift=shift, later=slot.later and shift == 0)


def _shift(gradient: Tensor, trained: Tensor) -> int:
    """Return how far ahead the scores of a position speak: 1 for the next token, more for heads that predict later ones."""
    reached = gradient.abs().sum(dim=-1) != 0
    tokens = reached.shape[1]
    covered = {0: 0.0}
    for ahead in range(min(_FARTHEST, tokens - 1) + 1):
        speaks, wanted = reached[:, : tokens - ahead], trained[:, ahead:]
        # A trained token may get nothing, a clipped one; one that is not trained never does.
        if not bool((speaks & ~wanted).any()) and not bool(reached[:, tokens - ahead :].any()):
            covered[ahead] = float((speaks & wanted).sum()) / max(float(wanted.sum()), 1.0)
    return max(covered, key=lambda ahead: (covered[ahead], -ahead))
