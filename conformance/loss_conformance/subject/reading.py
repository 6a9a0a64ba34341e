"""One way to understand all parameters of a loss at once: which axes and values each meaning stands for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from loss_conformance.cases.documents import DOCUMENTS
from loss_conformance.cases.label_values import BINARY
from loss_conformance.cases.slot import Slot
from loss_conformance.subject.parameter_names import TRAINABLE
from loss_conformance.subject.torch_slots import argument

__all__ = ["ALIGNED", "BINARY_TARGET", "PREDICTED", "ROWS", "Form", "Forms", "Grid", "Reading", "elementwise"]

# Role, shape and further slot facts of one meaning.
Form: TypeAlias = tuple[str, str, dict[str, Any]]
Forms: TypeAlias = Mapping[str, Form]


@dataclass(frozen=True)
class Grid:
    """What the inputs along tokens look like in one reading: their axes and the token entry 0 speaks of."""

    shape: str
    shift: int


PREDICTED: Final = Grid("B S-1", 1)
ALIGNED: Final = Grid("B S", 0)
ROWS: Final = Grid("B", 0)


@dataclass(frozen=True)
class Reading:
    """One way to understand all parameters at once.

    Attributes:
        name: in words, for the message when none fits.
        grid: the axes of everything that runs along tokens.
        forms: meaning to (role, shape, further slot facts), for what does not follow from the grid.
    """

    name: str
    grid: Grid = ROWS
    forms: Forms = field(default_factory=dict)

    def slot(self, parameter: str, meaning: str) -> Slot | None:
        """Return the slot of a parameter with this meaning, or ``None`` when the meaning has no place in this reading."""
        trainable = meaning in TRAINABLE
        if meaning == "count":
            return argument(parameter, "count", "")
        if meaning in _SCALARS:
            return argument(parameter, "values", "", trainable=trainable, **_SCALARS[meaning])
        form = "embedding" if meaning == "teacher_embedding" else meaning
        if form in self.forms:
            role, shape, facts = self.forms[form]
            return argument(parameter, role, shape, trainable=trainable, **facts)
        if meaning == "entry_weights" and "target" in self.forms:
            return argument(parameter, "weights", self.forms["target"][1], shift=self.grid.shift)
        if meaning.startswith("pair."):
            role = "rewards" if meaning.endswith("rewards") else "logprobs"
            return argument(parameter, role, "B", trainable=trainable, kind=meaning)
        if meaning not in _ALONG_TOKENS or (self.grid is ROWS and meaning in _NEVER_ROWS):
            return None
        role, kind = _ALONG_TOKENS[meaning]
        if self.grid is ROWS and meaning not in _ALWAYS_ROWS:
            kind = "rows_mask" if role == "mask" else role
        shape = "B" if meaning in _ALWAYS_ROWS else self.grid.shape
        shift = 0 if meaning in _ALWAYS_ROWS else self.grid.shift
        return argument(parameter, role, shape, trainable=trainable, kind=kind, shift=shift, **_LIMITS.get(meaning, {}))


# Meaning to (role, kind of the vocabulary).
_ALONG_TOKENS: Final[dict[str, tuple[str, str]]] = {
    "logprobs": ("logprobs", "model_outputs.next_token_logprobs"),
    "old_logprobs": ("logprobs", "batch.prev_logprobs"),
    "reference_logprobs": ("logprobs", "batch.reference_policy_logprobs"),
    "generation_logprobs": ("logprobs", "batch.generation_logprobs"),
    "student_logprobs": ("logprobs", "model_outputs.next_token_logprobs"),
    "teacher_logprobs": ("logprobs", "batch.reference_policy_logprobs"),
    "advantages": ("advantages", "batch.advantages"),
    "values": ("values", "model_outputs.values"),
    "old_values": ("values", "batch.values"),
    "returns": ("values", "batch.returns"),
    "entropy": ("values", "values"),
    "ratio": ("values", "values"),
    "log_ratio": ("values", "values"),
    "token_weights": ("weights", "weights"),
    "row_weights": ("weights", "weights"),
    "entry_weights": ("weights", "weights"),
    "token_mask": ("mask", "batch.token_mask"),
    "input_ids": ("token_ids", "batch.input_ids"),
    "rows_mask": ("mask", "rows_mask"),
    "rows_there": ("mask", "rows_mask"),
    "documents": ("lengths", DOCUMENTS),
    "response_lengths": ("lengths", "lengths"),
    "token_rewards": ("rewards", "token_rewards"),
    "token_discounts": ("values", "values"),
    "rewards": ("rewards", "batch.rewards"),
    "row_advantages": ("advantages", "batch.advantages"),
}
_ALWAYS_ROWS: Final = ("rows_mask", "rows_there", "row_weights", "rewards", "row_advantages", "response_lengths")
_NEVER_ROWS: Final = ("documents", "response_lengths", "token_rewards", "token_discounts")
_SCALARS: Final[dict[str, dict[str, Any]]] = {"scale": {"low": 1.0}, "bias": {}}
_LIMITS: Final[dict[str, dict[str, Any]]] = {
    "entropy": {"low": 0.0},
    "ratio": {"low": 0.0625},
    "token_discounts": {"low": 0.0, "high": 1.0},
}

BINARY_TARGET: Final[dict[str, Any]] = {"kind": BINARY, "low": 0.0, "high": 1.0}


def elementwise(name: str, role: str, shape: str, target: dict[str, Any]) -> Reading:
    """Return the reading of a prediction and a target of one shape."""
    return Reading(name, ROWS, {"prediction": (role, shape, {}), "target": ("values", shape, target)})
