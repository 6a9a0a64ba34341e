"""One input of a loss: where it goes, what it means, and which token each entry speaks of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from loss_conformance.cases.documents import DOCUMENTS, SAYS_WHICH_DOCUMENT
from loss_reference.contract import Field
from loss_reference.vocabulary import BATCH_FIELDS, MODEL_OUTPUT_FIELDS

__all__ = [
    *("ARGUMENT", "BATCH", "MODEL_OUTPUTS", "STRUCTURAL_ROLES"),
    *("Schema", "Slot", "says_which_document", "vocabulary_slot"),
]

BATCH: Final = "batch"
MODEL_OUTPUTS: Final = "model_outputs"
ARGUMENT: Final = "argument"

# Fields whose entry t speaks of token t+1; every other [B, S] field is aligned with input_ids.
_PREDICTIONS: Final = {
    (MODEL_OUTPUTS, "logits"),
    (MODEL_OUTPUTS, "next_token_logprobs"),
    (BATCH, "reference_logits"),
    (BATCH, "teacher_logits"),
    (BATCH, "teacher_topk_logits"),
    (BATCH, "teacher_topk_indices"),
}
STRUCTURAL_ROLES: Final = ("mask", "count", "lengths", "pairs", "labels", "token_ids")
"""Roles whose numbers are structure: they are never moved a little, and never receive gradient."""
_INTEGER_ROLES: Final = ("token_ids", "lengths", "labels", "pairs")


@dataclass(frozen=True)
class Slot:
    """One input of a loss.

    Attributes:
        place: the mapping it arrives in, or ``"argument"`` of a call by parameter name.
        name: its key or parameter name.
        kind: what to generate; a name of the vocabulary, or the role for inputs outside it.
        role: what the numbers are.
        shape: size letters, one per axis. B, S, V, K, D, N are the sizes of the plan, ``S-1`` one fewer.
        shift: which token entry 0 along S speaks of.
        later: entry t speaks of every token from there on, not of one.
        trainable: whether it receives gradient.
        integer: whether it holds whole numbers and is never cast.
        optional: whether the loss can do without it.
        low, high: legal range of the values, where the role alone does not say.
        signs: the values are -1 and +1.
        ignore: label that marks an entry as masked, for labels that carry their own mask.
    """

    place: str
    name: str
    kind: str
    role: str
    shape: tuple[str, ...]
    shift: int = 0
    later: bool = False
    trainable: bool = False
    integer: bool = False
    optional: bool = False
    low: float | None = None
    high: float | None = None
    signs: bool = False
    ignore: int | None = None

    @property
    def key(self) -> str:
        """The input as a person writes it: ``batch["token_mask"]``, or the bare parameter name."""
        return self.name if self.place == ARGUMENT else f'{self.place}["{self.name}"]'

    @property
    def limited(self) -> bool:
        """Whether its values may not leave a range that the role alone does not tell."""
        return self.low is not None or self.high is not None or self.signs

    @property
    def movable(self) -> bool:
        """Whether its values are real numbers that may be moved a little and stay legal."""
        return not (self.integer or self.limited or self.role in STRUCTURAL_ROLES or self.kind == "binary_targets")

    @property
    def token_axis(self) -> int | None:
        """The axis that runs over tokens, or ``None``."""
        return next((axis for axis, letter in enumerate(self.shape) if letter in ("S", "S-1")), None)

    @property
    def row_axis(self) -> int | None:
        """The axis that runs over sequences, or ``None``."""
        return next((axis for axis, letter in enumerate(self.shape) if letter == "B"), None)


@dataclass(frozen=True)
class Schema:
    """Every input of one loss.

    Attributes:
        slots: the inputs, in the order they are read or passed.
        group: how many neighbouring rows one term compares; 2 for interleaved pairs.
        ordered: the first row of a group is the chosen one.
        halves: the loss takes the chosen rows first and then the rejected ones; cases hold them interleaved all the same.
    """

    slots: tuple[Slot, ...]
    group: int = 1
    ordered: bool = True
    halves: bool = False

    @property
    def paired(self) -> bool:
        """Whether rows come in interleaved (chosen, rejected) pairs."""
        return self.group == 2 and self.ordered

    def __contains__(self, name: object) -> bool:
        return any(slot.name == name or slot.key == name for slot in self.slots)

    def kinds(self) -> set[str]:
        """Return the kinds of all slots."""
        return {slot.kind for slot in self.slots}

    def find(self, kind: str) -> Slot | None:
        """Return the slot of this kind, or ``None``."""
        return next((slot for slot in self.slots if slot.kind == kind), None)

    @property
    def letters(self) -> set[str]:
        """Every size letter some slot uses."""
        return {letter for slot in self.slots for letter in slot.shape}


def says_which_document(name: str, declared: Field) -> bool:
    """Return whether a field holds document ids of packed rows: structure, whatever its role is called."""
    along_tokens = declared.shape.split() in (["B", "S"], ["B", "S-1"])
    return along_tokens and declared.role in _INTEGER_ROLES and bool(SAYS_WHICH_DOCUMENT.fullmatch(name.lower()))


def vocabulary_slot(place: str, name: str, optional: bool = False, declared: Field | None = None) -> Slot | None:
    """Return the slot of a vocabulary field, or of one declared in the contract; ``None`` when it is neither."""
    table = BATCH_FIELDS if place == BATCH else MODEL_OUTPUT_FIELDS
    known = table.get(name)
    fact = declared or known
    if fact is None:
        return None
    trainable = fact.trainable if fact.trainable is not None else place == MODEL_OUTPUTS
    # Who declares a field as it is known anyway gets the values that go with the others'.
    as_known = known is not None and (known.role, known.shape.split()) == (fact.role, fact.shape.split())
    kind = f"{place}.{name}" if as_known else fact.role
    role = fact.role
    if says_which_document(name, fact):
        kind, role = DOCUMENTS, "lengths"
    return Slot(
        place=place,
        name=name,
        kind=kind,
        role=role,
        shape=tuple(fact.shape.split()),
        shift=int(fact.speaks_of != "itself" if fact.speaks_of else (place, name) in _PREDICTIONS),
        later=fact.speaks_of == "later",
        trainable=trainable and fact.role not in _INTEGER_ROLES,
        integer=fact.role in _INTEGER_ROLES,
        optional=optional,
    )
