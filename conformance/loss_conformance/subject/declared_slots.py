"""The slot of a parameter whose meaning is declared: in the contract, or by bearing the name of a vocabulary field."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from loss_conformance.cases.documents import DOCUMENTS
from loss_conformance.cases.label_values import BINARY
from loss_conformance.cases.slot import ARGUMENT, BATCH, MODEL_OUTPUTS, Slot, says_which_document, vocabulary_slot
from loss_conformance.subject.parameter_names import TRAINABLE, meaning_of
from loss_conformance.subject.torch_slots import argument
from loss_reference.contract import Field

__all__ = [
    *("agreement", "by_another_name", "declared_again", "declared_slot", "declared_slots", "vocabulary_argument"),
    *("with_class_axis", "with_ignored_label", "with_row_axis", "with_token_axis"),
]

_COMPUTED: Final = ("logits", "logprobs", "probabilities", "values", "embeddings")
"""Roles of what a model computes, and which receive gradient unless the name or the contract says otherwise."""
_SAYS_WHETHER_IT_HAPPENED: Final = re.compile(
    r"(is_)?events?(_(observed|indicators?))?|censor(ed|ing)?|observed|(is_)?(dones?|terminateds?|terminals?)",
    re.IGNORECASE,
)
"""Names of yes or no about a row that counts either way, though it may be called a mask or a label."""
_IN_VOCABULARY: Final = {
    "values": (MODEL_OUTPUTS, "values"),
    "logprobs": (MODEL_OUTPUTS, "next_token_logprobs"),
    **{name: (BATCH, name) for name in ("returns", "advantages", "rewards", "token_mask", "input_ids")},
    "old_values": (BATCH, "values"),
    "old_logprobs": (BATCH, "prev_logprobs"),
    "generation_logprobs": (BATCH, "generation_logprobs"),
    "reference_logprobs": (BATCH, "reference_policy_logprobs"),
    "rows_mask": (BATCH, "sample_mask"),
}
"""What a name means, and which field of the vocabulary that is."""
_SCORES: Final = ("logits", "logprobs", "probabilities")
_ROWS_BY_ANOTHER_NAME: Final = frozenset("NMPQRTUWXYZ")
"""Letters with no size of their own in the vocabulary, but N, which counts terms: where all inputs have one, it is a row."""


def declared_slots(fields: Mapping[str, Field], ignore: int | None) -> dict[str, Slot]:
    """Return the slot of every declared argument by its name.

    Args:
        fields: what the contract says of them.
        ignore: label the loss is known to ignore; labels of tokens may hold the usual one anyway.
    """
    axes = _class_axes(fields)
    counts = {name: int(axis) for name, axis in axes.items() if axis.isdigit()}
    slots = {name: declared_slot(name, field, counts.get(name)) for name, field in fields.items()}
    return slots | {name: with_ignored_label(slots[name], ignore) for name in axes}


def with_ignored_label(slot: Slot, ignore: int | None) -> Slot:
    """Return labels of tokens with the label that is ignored, the usual one where none is known; else the slot itself."""
    labels = _along_tokens(slot) and _may_be_ignored(slot)
    return replace(slot, ignore=-100 if ignore is None else ignore) if labels else slot


def _along_tokens(slot: Slot) -> bool:
    return slot.shape[:1] == ("B",) and slot.shape[-1:] in (("S",), ("S-1",))


def _may_be_ignored(slot: Slot) -> bool:
    """Return whether these ids say by a label of their own which tokens are left out: ids that are called labels are."""
    return slot.role == "labels" or (slot.role == "token_ids" and meaning_of(slot.name) == "target")


def declared_slot(name: str, declared: Field, classes: int | None = None) -> Slot:
    """Return the slot of an argument from its ``Field``; masks take their content from the rows or tokens they mask.

    Args:
        name: its name.
        declared: what the contract says of it.
        classes: how many classes its ids are of, where that is not the size of the vocabulary.
    """
    trainable = declared.trainable
    if trainable is None:
        meaning = meaning_of(name)
        trainable = declared.role in _COMPUTED and (meaning is None or meaning in TRAINABLE)
    shape = declared.shape.split()
    facts: dict[str, Any] = {}
    if declared.role in ("mask", "labels") and _SAYS_WHETHER_IT_HAPPENED.fullmatch(name):
        return argument(name, "values", declared.shape, trainable=False, kind=BINARY)
    if declared.role == "mask":
        facts["kind"] = {"B S": "batch.token_mask", "B S-1": "batch.token_mask", "B": "rows_mask"}.get(
            " ".join(shape), "mask"
        )
    if "S-1" in shape or declared.speaks_of in ("next", "later"):
        facts["shift"] = 1
    facts["later"] = declared.speaks_of == "later"
    if classes is not None:
        facts["high"] = float(classes)
    if says_which_document(name, declared):
        return argument(name, "lengths", declared.shape, kind=DOCUMENTS, **facts)
    return argument(name, declared.role, declared.shape, trainable=trainable, **facts)


def with_token_axis(fields: Mapping[str, Field], ignores: bool) -> dict[str, Field]:
    """Return the fields with S as the last axis of a mask [B, X] or [B, H, X]: masked tokens, or pixels, by another name.

    Args:
        fields: what the contract says of each.
        ignores: the loss knows a label that it ignores, so that labels of pixels [B, H, X] mask as well.
    """
    letters = {letter for field in fields.values() for letter in field.shape.split()}
    masks = [field for field in fields.values() if field.role == "mask"]
    masks += [field for field in fields.values() if ignores and field.role == "labels" and len(field.shape.split()) > 2]
    masked = {field.shape.split()[-1] for field in masks if _of_rows_and_more(field)}
    if len(masked) != 1 or letters & {"S", "S-1"}:
        return dict(fields)
    (own,) = masked
    return {
        name: replace(field, shape=" ".join("S" if letter == own else letter for letter in field.shape.split()))
        for name, field in fields.items()
    }


def with_row_axis(fields: Mapping[str, Field]) -> dict[str, Field]:
    """Return the fields with B as the first axis that all of them share, whatever its letter: rows by another name."""
    axes = [field.shape.split() for field in fields.values() if field.shape.split()]
    first = {letters[0] for letters in axes}
    if len(axes) < 2 or len(first) != 1 or not first <= _ROWS_BY_ANOTHER_NAME:
        return dict(fields)
    if any(first & set(letters[1:]) for letters in axes):
        return dict(fields)  # each against each
    return {
        name: replace(field, shape=" ".join(["B", *field.shape.split()[1:]])) if field.shape.split() else field
        for name, field in fields.items()
    }


def with_class_axis(fields: Mapping[str, Field]) -> dict[str, Field]:
    """Return the fields with V as the axis that class ids count along, whatever its letter: [B, A] scores of [B] actions."""
    axes = {axis for axis in _class_axes(fields).values() if axis.isalpha()}
    if len(axes) != 1 or any("V" in field.shape.split() for field in fields.values()):
        return dict(fields)
    (own,) = axes
    return {
        name: replace(field, shape=" ".join("V" if letter == own else letter for letter in field.shape.split()))
        for name, field in fields.items()
    }


def _class_axes(fields: Mapping[str, Field]) -> dict[str, str]:
    """Return the axis that each field of ids counts along: the one that scores (values of actions) have besides."""
    found = {}
    for name, field in fields.items():
        along = _besides(field, fields, _SCORES) or _besides(field, fields, ("values",))
        along = along & {"V"} or along  # beside the scores of a router, for instance
        if field.role in ("labels", "token_ids") and len(along) == 1:
            found[name] = along.pop()
    return found


def _besides(ids: Field, fields: Mapping[str, Field], roles: Container[str]) -> set[str]:
    """Return the axes that fields of these roles have and ``ids`` has not, last or, as in pictures [B, C, H, W], second."""
    wanted, found = ids.shape.split(), set()
    for field in fields.values():
        axes = field.shape.split() if field.role in roles else []
        found |= {axes[at] for at in {len(axes) - 1, 1} if 0 < at < len(axes) and axes[:at] + axes[at + 1 :] == wanted}
    return found


def _of_rows_and_more(field: Field) -> bool:
    axes = field.shape.split()
    return len(axes) > 1 and axes[0] == "B" and axes[-1].isalpha() and axes[-1] not in ("V", "N")


def agreement(slots: Iterable[Slot], declared: Mapping[str, Field]) -> dict[str, str] | None:
    """Return the axis of the slots for each letter of the declared fields; ``None`` where they disagree.

    Slots agree that have the roles of their fields, and their axes but for the letters they are called by.
    """
    letters: dict[str, str] = {}
    for slot in slots:
        field = declared.get(slot.name)
        if field is None:
            continue
        axes = field.shape.split()
        if field.role != slot.role or field.speaks_of == "later" or len(axes) != len(slot.shape):
            return None
        if slot.limited and slot.kind != slot.role:
            return None
        if any(
            axis.isdigit() or letters.setdefault(axis, own) != own or (axis == "S" and own not in ("S", "S-1"))
            for axis, own in zip(axes, slot.shape, strict=True)
        ):
            return None
    return letters if len(set(letters.values())) == len(letters) else None


def declared_again(slot: Slot, declared: Mapping[str, Field], optional: Container[str]) -> Slot:
    """Return the slot as its field has it: which token it speaks of, whether it receives gradient, any number of its role."""
    slot = replace(slot, optional=slot.name in optional)
    field = declared.get(slot.name)
    if field is None:
        return slot
    trainable = slot.trainable if field.trainable is None else field.trainable
    shift = slot.shift if field.speaks_of is None else int(field.speaks_of == "next")
    return replace(slot, trainable=trainable, shift=shift, low=None, high=None, signs=False)


def vocabulary_argument(name: str, optional: bool) -> Slot | None:
    """Return the slot of an argument named like a field of the vocabulary, aligned as that field is; ``None`` without one.

    A name that stands in both mappings, such as ``values``, is the model's.
    """
    for place in (MODEL_OUTPUTS, BATCH):
        slot = vocabulary_slot(place, name, optional)
        if slot is not None:
            return replace(slot, place=ARGUMENT)
    return None


def by_another_name(place: str, name: str) -> Slot | None:
    """Return the slot of a field of a mapping that means one of the vocabulary, such as ``value_preds``; else ``None``."""
    there, known = _IN_VOCABULARY.get(meaning_of(name) or "", ("", ""))
    slot = vocabulary_slot(there, known) if there == place else None  # the model's values are no constants of the batch
    return slot and replace(slot, name=name)
