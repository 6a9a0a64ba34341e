"""How far ahead the scores of a position speak, found from the gradient they get."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from torch import Tensor

from loss_conformance.cases.slot import Schema
from loss_conformance.subject.probe import Probe

__all__ = ["shifted"]

_FARTHEST: Final = 4


def shifted(schema: Schema, outcome: Probe) -> Schema:
    """Return the schema with scores aligned as the loss aligns them: some shift labels and masks by one themselves."""
    says = any((s.ignore is not None or s.role == "mask") and s.token_axis is not None for s in schema.slots)
    logits = schema.find("model_outputs.logits")
    if not says or logits is None or outcome.case is None or logits.key not in (outcome.gradients or {}):
        return schema
    gradients, trained = outcome.gradients or {}, outcome.case.trained
    alike = [slot for slot in schema.slots if slot.shape == logits.shape and slot.role == logits.role]
    found = {slot.key: _shift(gradients[slot.key], trained) for slot in alike if slot.key in gradients}
    # What is compared with them position by position, the logits of a teacher, speaks of the same tokens.
    shifts = {slot.key: found.get(slot.key, found[logits.key]) for slot in alike}
    return replace(schema, slots=tuple(replace(s, shift=shifts.get(s.key, s.shift)) for s in schema.slots))


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
