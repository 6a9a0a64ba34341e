"""The slot of a parameter whose meaning is declared: in the contract, or by bearing the name of a vocabulary field."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from loss_conformance.cases.slot import ARGUMENT, BATCH, MODEL_OUTPUTS, Slot, vocabulary_slot
from loss_conformance.subject.parameter_names import TRAINABLE, meaning_of
from loss_conformance.subject.torch_slots import argument
from loss_reference.contract import Field

__all__ = ["declared_slot", "vocabulary_argument"]

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


def vocabulary_argument(name: str, optional: bool) -> Slot | None:
    """Return the slot of an argument named like a field of the vocabulary, aligned as that field is; ``None`` without one.

    A name that stands in both mappings, such as ``values``, is the model's.
    """
    for place in (MODEL_OUTPUTS, BATCH):
        slot = vocabulary_slot(place, name, optional)
        if slot is not None:
            return replace(slot, place=ARGUMENT)
    return None
