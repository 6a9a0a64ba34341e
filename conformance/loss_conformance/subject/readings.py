"""What the parameters of a loss may be together: the sizes, alignments and value ranges worth trying, in order."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias

from loss_conformance.cases.label_values import BINARY
from loss_conformance.cases.slot import Slot
from loss_conformance.subject.parameter_names import TRAINABLE
from loss_conformance.subject.torch_slots import argument

__all__ = ["Reading", "readings"]

# Role, shape and further slot facts of one meaning.
_Form: TypeAlias = tuple[str, str, dict[str, Any]]
_Forms: TypeAlias = Mapping[str, _Form]


@dataclass(frozen=True)
class Grid:
    """What the inputs along tokens look like in one reading: their axes and the token entry 0 speaks of."""

    shape: str
    shift: int


_PREDICTED: Final = Grid("B S-1", 1)
_ALIGNED: Final = Grid("B S", 0)
_ROWS: Final = Grid("B", 0)


@dataclass(frozen=True)
class Reading:
    """One way to understand all parameters at once.

    Attributes:
        name: in words, for the message when none fits.
        grid: the axes of everything that runs along tokens.
        forms: meaning to (role, shape, further slot facts), for what does not follow from the grid.
    """

    name: str
    grid: Grid = _ROWS
    forms: _Forms = field(default_factory=dict)

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
        if meaning.startswith("pair."):
            role = "rewards" if meaning.endswith("rewards") else "logprobs"
            return argument(parameter, role, "B", trainable=trainable, kind=meaning)
        if meaning not in _ALONG_TOKENS:
            return None
        role, kind = _ALONG_TOKENS[meaning]
        if self.grid is _ROWS and meaning not in _ALWAYS_ROWS:
            kind = "rows_mask" if role == "mask" else role
        shape = "B" if meaning in _ALWAYS_ROWS else self.grid.shape
        shift = 0 if meaning in _ALWAYS_ROWS else self.grid.shift
        facts = {"low": 0.0} if meaning == "entropy" else {}
        return argument(parameter, role, shape, trainable=trainable, kind=kind, shift=shift, **facts)


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
    "token_mask": ("mask", "batch.token_mask"),
    "input_ids": ("token_ids", "batch.input_ids"),
    "rows_mask": ("mask", "rows_mask"),
    "rewards": ("rewards", "batch.rewards"),
    "row_advantages": ("advantages", "batch.advantages"),
}
_SCALARS: Final[dict[str, dict[str, Any]]] = {"scale": {"low": 1.0}, "bias": {}}
_ALWAYS_ROWS: Final = ("rows_mask", "rewards", "row_advantages")
_TOKEN_LEVEL: Final = {
    "old_logprobs",
    "reference_logprobs",
    "generation_logprobs",
    "advantages",
    "values",
    "old_values",
}
_TOKEN_LEVEL_MORE: Final = {"returns", "entropy", "rewards", "input_ids"}

_TWO_CLASSES: Final[_Form] = ("labels", "B", {"high": 2.0})
_BINARY_TARGET: Final[dict[str, Any]] = {"kind": BINARY, "low": 0.0, "high": 1.0}


def readings(meanings: Mapping[str, str], ignore: int | None) -> Iterator[tuple[Reading, dict[str, Slot]]]:
    """Yield every reading of parameters with these meanings, with the slot of each parameter.

    Args:
        meanings: parameter name to meaning.
        ignore: label the loss is known to ignore, or ``None``.
    """
    present = set(meanings.values())
    for reading in _structures(present, ignore, meanings):
        for advantages, dtype in itertools.product(_advantages(present), _mask_types(present)):
            named = {p: advantages if m == "advantages" else m for p, m in meanings.items()}
            found = {parameter: reading.slot(parameter, meaning) for parameter, meaning in named.items()}
            slots = {p: replace(s, integer=dtype) if s.role == "mask" else s for p, s in found.items() if s is not None}
            if len(slots) == len(named):
                yield reading, slots


def _advantages(present: set[str]) -> tuple[str, ...]:
    # One per row first: code for one per token cannot take it, while [B, 1] x [B, S] broadcasts the other way round.
    return ("row_advantages", "advantages") if "advantages" in present else ("",)


def _mask_types(present: set[str]) -> tuple[bool, ...]:
    return (False, True) if present & {"token_mask", "rows_mask"} else (False,)


def _structures(present: set[str], ignore: int | None, meanings: Mapping[str, str]) -> list[Reading]:
    if any(meaning.startswith("pair.") for meaning in present):
        return [Reading("one number per pair [B]", _ROWS, {"margin": ("values", "B", {"kind": "pair.margin"})})]
    if present & {"student", "teacher", "student_probabilities", "teacher_probabilities"}:
        return _distillation(present, ignore)
    if {"student_logprobs", "teacher_logprobs"} <= present:
        return [*_distillation(present, ignore), Reading("one entry per predicted token [B, S-1]", _PREDICTED)]
    if present & {"embedding", "teacher_embedding"}:
        return _contrastive(meanings)
    if "logprobs" in present and "target" in present and not present & _TOKEN_LEVEL:
        return [_classes("log-probabilities", "logprobs", "logprobs", ignore), *_tokens_of_classes("logprobs", ignore)]
    if present & {"prediction", "target", "probabilities"}:
        return _predictions(present, ignore)
    return [
        Reading("one entry per predicted token [B, S-1]", _PREDICTED),
        Reading("one entry per row [B]", _ROWS),
    ]


def _classes(words: str, meaning: str, role: str, ignore: int | None) -> Reading:
    target = ("labels", "B", {"ignore": ignore})
    return Reading(f"{words} [B, V] with class ids [B]", _ROWS, {meaning: (role, "B V", {}), "target": target})


def _tokens_of_classes(meaning: str, ignore: int | None, role: str = "logprobs") -> list[Reading]:
    """Return the readings of a language-model loss: [B, S, V] beside [B, S], aligned, with the ignored label or without."""
    kind = {"kind": "model_outputs.logits"} if role == "logits" else {}
    prediction = (role, "B S V", kind)
    target = ("labels", "B S", {"kind": "batch.input_ids", "ignore": -100 if ignore is None else ignore})
    free: _Forms = {meaning: (role, "B L V", {}), "target": ("labels", "B L", {})}
    words = "logits" if role == "logits" else "log-probabilities"
    return [
        Reading(f"{words} [B, S, V] with token ids [B, S]", _ALIGNED, {meaning: prediction, "target": target}),
        Reading(f"{words} [B, L, V] with class ids [B, L]", _ROWS, free),
    ]


def _predictions(present: set[str], ignore: int | None) -> list[Reading]:
    masked = "token_mask" in present or bool(present & _TOKEN_LEVEL)
    if masked:
        return [*_masked_predictions(), _classes("logits", "prediction", "logits", ignore)]
    tokens, free = _tokens_of_classes("prediction", ignore, "logits")
    image = {"prediction": ("logits", "B V 4 2", {}), "target": ("labels", "B 4 2", {"ignore": ignore})}
    features: _Forms = {"prediction": ("embeddings", "B D", {}), "target": ("labels", "B", {})}
    elementwise = [
        _elementwise("scores [B, D] with targets 0 or 1", "values", "B D", _BINARY_TARGET),
        _elementwise("probabilities [B, D] with targets 0 or 1", "probabilities", "B D", _BINARY_TARGET),
        _elementwise("values [B, D] with values [B, D]", "values", "B D", {}),
        _elementwise("values [B] with values [B]", "values", "B", {}),
        _elementwise("scores [B, D] with targets -1 or 1", "values", "B D", {"signs": True}),
        _elementwise("probabilities [B, 1, 4, 2] with targets 0 or 1", "probabilities", "B 1 4 2", _BINARY_TARGET),
    ]
    found = [
        tokens,
        _classes("logits", "prediction", "logits", ignore),
        free,
        Reading("logits [B, V, 4, 2] with class ids [B, 4, 2]", _ROWS, image),
        *elementwise,
        _classes("log-probabilities", "prediction", "logprobs", ignore),
        _classes("probabilities", "prediction", "probabilities", ignore),
        _elementwise("boxes [B, 4] with boxes", "values", "B 4", {}),
        *_images(ignore),
        Reading("features [B, D] with class ids [B]", _ROWS, features),
    ]
    if "probabilities" in present:
        found = [_classes("probabilities", "probabilities", "probabilities", ignore), elementwise[1], *found]
        found = [replace(r, forms={**r.forms, "probabilities": _probabilities(r)}) for r in found]
    return found


def _probabilities(reading: Reading) -> _Form:
    _, shape, _ = reading.forms.get("probabilities") or reading.forms["prediction"]
    return "probabilities", shape, {}


def _images(ignore: int | None) -> list[Reading]:
    """Return the readings of losses that insist on the axes of images, volumes, box corners or signals."""
    one_channel = {"prediction": ("values", "B 1 8 8", {}), "target": ("labels", "B 8 8", {"high": 2.0})}
    channel_of_labels = {"prediction": ("values", "B 1 8 8", {}), "target": ("labels", "B 1 8 8", {"high": 1.0})}
    positions = {"prediction": ("values", "B V 4 2", {}), "target": ("labels", "B 1 4 2", {"ignore": ignore})}
    pixels = {"low": 0.0, "high": 1.0}
    return [
        Reading("scores [B, 1, 8, 8] with targets 0 or 1 [B, 8, 8]", _ROWS, one_channel),
        Reading("scores [B, 1, 8, 8] with class ids [B, 1, 8, 8]", _ROWS, channel_of_labels),
        Reading("logits [B, V, 4, 2] with class ids [B, 1, 4, 2]", _ROWS, positions),
        _elementwise("scores [B, 1] with targets 0 or 1", "values", "B 1", _BINARY_TARGET),
        _elementwise("images [B, 3, 16, 16] with images", "probabilities", "B 3 16 16", pixels),
        _elementwise("images [B, 1, 12, 12] with images", "probabilities", "B 1 12 12", pixels),
        _elementwise("fields [B, 2, 6, 6] with fields", "values", "B 2 6 6", {}),
        _elementwise("volumes [B, 1, 6, 6, 6] with volumes", "probabilities", "B 1 6 6 6", pixels),
        _elementwise("signals [B, 1, 1536] with signals", "values", "B 1 1536", {}),
    ]


def _elementwise(name: str, role: str, shape: str, target: dict[str, Any]) -> Reading:
    return Reading(name, _ROWS, {"prediction": (role, shape, {}), "target": ("values", shape, target)})


def _masked_predictions() -> list[Reading]:
    tokens, _ = _tokens_of_classes("prediction", None, "logits")
    target = ("labels", "B S", {"kind": "batch.input_ids"})
    forms = {**tokens.forms, "target": target}
    found = [replace(tokens, forms=forms)]
    for role in ("values", "probabilities"):
        form: _Form = (role, "B S", {})
        pair: _Forms = {"prediction": form, "probabilities": form, "target": ("values", "B S", _BINARY_TARGET)}
        found.append(Reading(f"{role} [B, S] with targets 0 or 1", _ALIGNED, pair))
    return found


def _distillation(present: set[str], ignore: int | None) -> list[Reading]:
    rows: dict[str, _Form] = {
        "student": ("logits", "B V", {}),
        "teacher": ("logits", "B V", {}),
        "student_probabilities": ("probabilities", "B V", {}),
        "teacher_probabilities": ("probabilities", "B V", {}),
        "student_logprobs": ("logprobs", "B V", {}),
        "teacher_logprobs": ("logprobs", "B V", {}),
        "target": ("labels", "B", {"ignore": ignore}),
    }
    tokens = {name: (role, "B S V", facts) for name, (role, _, facts) in rows.items()}
    tokens["student"] = ("logits", "B S V", {"kind": "model_outputs.logits"})
    tokens["teacher"] = ("logits", "B S V", {"kind": "batch.teacher_logits"})
    tokens["target"] = ("labels", "B S", {"kind": "batch.input_ids", "ignore": -100 if ignore is None else ignore})
    of_rows = Reading("student and teacher [B, V]", _ROWS, rows)
    of_tokens = Reading("student and teacher [B, S, V]", _ALIGNED, tokens)
    # Labels of rows are refused where tokens are meant, and the other way round; without any both are often taken.
    return [of_tokens, of_rows] if present & {"token_mask", "target"} else [of_rows, of_tokens]


def _contrastive(meanings: Mapping[str, str]) -> list[Reading]:
    pairs: _Forms = {"embedding": ("embeddings", "B D", {})}
    signs: _Form = ("values", "B", {"signs": True})
    with_signs = [
        Reading("embeddings [B, D] with targets -1 or 1", _ROWS, {**pairs, "target": signs}),
        Reading("numbers [B] with targets -1 or 1", _ROWS, {"embedding": ("values", "B", {}), "target": signs}),
    ]
    binary: _Form = ("values", "B", _BINARY_TARGET)
    with_binary = [Reading("embeddings [B, D] with targets 0 or 1", _ROWS, {**pairs, "target": binary})]
    tokens = [Reading("embeddings of tokens [B, L, D]", _ROWS, {"embedding": ("embeddings", "B L D", {})})]
    # Of two classes, so that small batches hold rows that belong together and rows that do not.
    with_classes = [
        Reading("embeddings [B, D] with class ids [B]", _ROWS, {**pairs, "target": _TWO_CLASSES}),
        Reading(
            "embeddings of two views [B, 2, D] with class ids [B]",
            _ROWS,
            {"embedding": ("embeddings", "B 2 D", {}), "target": _TWO_CLASSES},
        ),
    ]
    if list(meanings.values()).count("embedding") == 1:
        return [*with_classes, *with_signs, *with_binary, *tokens]
    # Of two embeddings a target says whether they belong together: a label as 0 or 1, anything else as a sign.
    labelled = any("label" in name.lower() for name, meaning in meanings.items() if meaning == "target")
    if labelled:
        return [*with_binary, *with_signs, *with_classes, *tokens]
    return [*with_signs, *with_binary, *with_classes, *tokens]
