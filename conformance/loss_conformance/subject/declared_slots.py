"""The slot of a parameter whose meaning is declared in the contract."""

from __future__ import annotations

from typing import Any, Final

from loss_conformance.cases.slot import Slot
from loss_conformance.subject.parameter_names import TRAINABLE, meaning_of
from loss_conformance.subject.torch_slots import argument
from loss_reference.contract import Field

__all__ = ["declared_slot"]

_COMPUTED: Final = ("logits", "logprobs", "probabilities", "values", "embeddings")
"""Roles of what a model computes, and which receive gradient unless the name or the contract says otherwise."""


def declared_slot(name: str, declared: Field) -> Slot:
    """Return the slot of an argument from its ``Field``; masks take their content from the rows or tokens they mask."""
    trainable = declared.trainable
    if trainable is None:
        meaning = meaning_of(name)
        trainable = declared.role in _COMPUTED and (meaning is None or meaning in TRAINABLE)
    shape = declared.shape.split()
    facts: dict[str, Any] = {}
    if declared.role == "mask":
        facts["kind"] = {"B S": "batch.token_mask", "B S-1": "batch.token_mask", "B": "rows_mask"}.get(
            " ".join(shape), "mask"
        )
    if "S-1" in shape:
        facts["shift"] = 1
    return argument(name, declared.role, declared.shape, trainable=trainable, **facts)
