"""What the parameters of a loss may be together: the sizes, alignments and value ranges worth trying, in order."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from loss_conformance.cases.slot import Slot
from loss_conformance.subject.reading import ALIGNED, BINARY_TARGET, PREDICTED, ROWS, Form, Forms, Reading, elementwise
from loss_conformance.subject.readings_elsewhere import readings_elsewhere
from loss_conformance.subject.readings_of_preferences import readings_of_judged_rows, readings_of_pairs

__all__ = ["readings"]

_TOKEN_LEVEL: Final = {
    "old_logprobs",
    "reference_logprobs",
    "generation_logprobs",
    "advantages",
    "values",
    "old_values",
}

_TWO_CLASSES: Final[Form] = ("labels", "B", {"high": 2.0})


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
            # What is there or not is asked as a yes or no, never as a weight.
            slots = {
                p: replace(s, integer=dtype or named[p] == "rows_there") if s.role == "mask" else s
                for p, s in found.items()
                if s is not None
            }
            if len(slots) == len(named):
                yield reading, _each_of_its_own(slots)


def _each_of_its_own(slots: dict[str, Slot]) -> dict[str, Slot]:
    """Return the slots with the scores of a second pass over the same inputs drawn apart from those of the first."""
    first = next((p for p, s in slots.items() if s.kind == "model_outputs.logits"), None)
    return {
        p: replace(s, kind=s.role) if s.kind == "model_outputs.logits" and p != first else s for p, s in slots.items()
    }


def _advantages(present: set[str]) -> tuple[str, ...]:
    # One per row first: code for one per token cannot take it, while [B, 1] x [B, S] broadcasts the other way round.
    return ("row_advantages", "advantages") if "advantages" in present else ("",)


def _mask_types(present: set[str]) -> tuple[bool, ...]:
    return (False, True) if present & {"token_mask", "rows_mask"} else (False,)


def _structures(present: set[str], ignore: int | None, meanings: Mapping[str, str]) -> list[Reading]:
    if elsewhere := readings_elsewhere(present, ignore):
        return elsewhere
    if any(meaning.startswith("pair.") for meaning in present) or present & {"difference", "reference_difference"}:
        return readings_of_pairs(present, ignore)
    if present & {"student", "teacher", "student_probabilities", "teacher_probabilities"}:
        return _distillation(present, ignore)
    if {"student_logprobs", "teacher_logprobs"} <= present or present == {"student_logprobs"}:
        return [*_distillation(present, ignore), Reading("one entry per predicted token [B, S-1]", PREDICTED)]
    if present & {"embedding", "teacher_embedding"}:
        return _contrastive(meanings)
    if "desirable" in present or present == {"logprobs", "reference_logprobs", "target"}:
        return readings_of_judged_rows()
    if "logprobs" in present and "target" in present and not present & _TOKEN_LEVEL:
        return [_classes("log-probabilities", "logprobs", "logprobs", ignore), *_tokens_of_classes("logprobs", ignore)]
    if present & {"prediction", "target", "probabilities"}:
        return _predictions(present, ignore)
    pairs: Forms = {"pair_ids": ("pairs", "N", {})}
    answers: Forms = {"logprobs": ("logprobs", "B K", {}), "rewards": ("rewards", "B K", {})}
    found = [
        Reading("one entry per predicted token [B, S-1]", PREDICTED),
        Reading("one entry per row [B]", ROWS, pairs),
    ]
    if present == answers.keys():
        found.append(Reading("one entry per answer of each prompt [B, K]", ROWS, answers))
    return found


def _classes(words: str, meaning: str, role: str, ignore: int | None) -> Reading:
    target = ("labels", "B", {"ignore": ignore})
    return Reading(f"{words} [B, V] with class ids [B]", ROWS, {meaning: (role, "B V", {}), "target": target})


def _tokens_of_classes(meaning: str, ignore: int | None, role: str = "logprobs") -> list[Reading]:
    """Return the readings of a language-model loss: [B, S, V] beside [B, S], aligned, with the ignored label or without."""
    kind = {"kind": "model_outputs.logits"} if role == "logits" else {}
    prediction = (role, "B S V", kind)
    target = ("labels", "B S", {"kind": "batch.input_ids", "ignore": -100 if ignore is None else ignore})
    free: Forms = {meaning: (role, "B L V", {}), "target": ("labels", "B L", {})}
    words = "logits" if role == "logits" else "log-probabilities"
    return [
        Reading(f"{words} [B, S, V] with token ids [B, S]", ALIGNED, {meaning: prediction, "target": target}),
        Reading(f"{words} [B, L, V] with class ids [B, L]", ROWS, free),
    ]


def _predictions(present: set[str], ignore: int | None) -> list[Reading]:
    masked = "token_mask" in present or bool(present & _TOKEN_LEVEL)
    if masked:
        return [*_masked_predictions(), _classes("logits", "prediction", "logits", ignore)]
    tokens, free = _tokens_of_classes("prediction", ignore, "logits")
    image = {"prediction": ("logits", "B V 4 2", {}), "target": ("labels", "B 4 2", {"ignore": ignore})}
    features: Forms = {"prediction": ("embeddings", "B D", {}), "target": ("labels", "B", {})}
    quantiles: Forms = {"prediction": ("values", "B Q", {}), "target": ("values", "B", {})}
    entries = [
        elementwise("scores [B, D] with targets 0 or 1", "values", "B D", BINARY_TARGET),
        elementwise("probabilities [B, D] with targets 0 or 1", "probabilities", "B D", BINARY_TARGET),
        elementwise("values [B, D] with values [B, D]", "values", "B D", {}),
        elementwise("values [B] with values [B]", "values", "B", {}),
        Reading("quantiles [B, Q] with values [B]", ROWS, quantiles),
        elementwise("scores [B, D] with targets -1 or 1", "values", "B D", {"signs": True}),
        elementwise("probabilities [B, 1, 4, 2] with targets 0 or 1", "probabilities", "B 1 4 2", BINARY_TARGET),
    ]
    found = [
        tokens,
        _classes("logits", "prediction", "logits", ignore),
        free,
        Reading("logits [B, V, 4, 2] with class ids [B, 4, 2]", ROWS, image),
        *entries,
        _classes("log-probabilities", "prediction", "logprobs", ignore),
        _classes("probabilities", "prediction", "probabilities", ignore),
        elementwise("boxes [B, 4] with boxes", "values", "B 4", {}),
        *_images(ignore),
        Reading("features [B, D] with class ids [B]", ROWS, features),
    ]
    if "probabilities" in present:
        found = [_classes("probabilities", "probabilities", "probabilities", ignore), entries[1], *found]
        found = [replace(r, forms={**r.forms, "probabilities": _probabilities(r)}) for r in found]
    return found


def _probabilities(reading: Reading) -> Form:
    _, shape, _ = reading.forms.get("probabilities") or reading.forms["prediction"]
    return "probabilities", shape, {}


def _images(ignore: int | None) -> list[Reading]:
    """Return the readings of losses that insist on the axes of images, volumes, box corners or signals."""
    one_channel = {"prediction": ("values", "B 1 8 8", {}), "target": ("labels", "B 8 8", {"high": 2.0})}
    channel_of_labels = {"prediction": ("values", "B 1 8 8", {}), "target": ("labels", "B 1 8 8", {"high": 1.0})}
    positions = {"prediction": ("values", "B V 4 2", {}), "target": ("labels", "B 1 4 2", {"ignore": ignore})}
    pixels = {"low": 0.0, "high": 1.0}
    return [
        Reading("scores [B, 1, 8, 8] with targets 0 or 1 [B, 8, 8]", ROWS, one_channel),
        Reading("scores [B, 1, 8, 8] with class ids [B, 1, 8, 8]", ROWS, channel_of_labels),
        Reading("logits [B, V, 4, 2] with class ids [B, 1, 4, 2]", ROWS, positions),
        elementwise("scores [B, 1] with targets 0 or 1", "values", "B 1", BINARY_TARGET),
        elementwise("images [B, 3, 16, 16] with images", "probabilities", "B 3 16 16", pixels),
        elementwise("images [B, 1, 12, 12] with images", "probabilities", "B 1 12 12", pixels),
        elementwise("fields [B, 2, 6, 6] with fields", "values", "B 2 6 6", {}),
        elementwise("volumes [B, 1, 6, 6, 6] with volumes", "probabilities", "B 1 6 6 6", pixels),
        elementwise("signals [B, 1, 1536] with signals", "values", "B 1 1536", {}),
    ]


def _masked_predictions() -> list[Reading]:
    tokens, _ = _tokens_of_classes("prediction", None, "logits")
    target = ("labels", "B S", {"kind": "batch.input_ids"})
    forms = {**tokens.forms, "target": target}
    found = [replace(tokens, forms=forms)]
    for role in ("values", "probabilities"):
        form: Form = (role, "B S", {})
        pair: Forms = {"prediction": form, "probabilities": form, "target": ("values", "B S", BINARY_TARGET)}
        pair = {**pair, "ratings": ("values", "B S", {})}
        found.append(Reading(f"{role} [B, S] with targets 0 or 1", ALIGNED, pair))
    return found


def _distillation(present: set[str], ignore: int | None) -> list[Reading]:
    rows: dict[str, Form] = {
        "student": ("logits", "B V", {}),
        "teacher": ("logits", "B V", {}),
        "student_probabilities": ("probabilities", "B V", {}),
        "teacher_probabilities": ("probabilities", "B V", {}),
        "student_logprobs": ("logprobs", "B V", {}),
        "teacher_logprobs": ("logprobs", "B V", {}),
        "target": ("labels", "B", {"ignore": ignore}),
        "embedding": ("embeddings", "B D", {}),
    }
    tokens = {name: (role, "B S V", facts) for name, (role, _, facts) in rows.items()}
    tokens["embedding"] = ("embeddings", "B S D", {})
    tokens["student"] = ("logits", "B S V", {"kind": "model_outputs.logits"})
    tokens["teacher"] = ("logits", "B S V", {"kind": "batch.teacher_logits"})
    tokens["target"] = ("labels", "B S", {"kind": "batch.input_ids", "ignore": -100 if ignore is None else ignore})
    of_rows = Reading("student and teacher [B, V]", ROWS, rows)
    of_tokens = Reading("student and teacher [B, S, V]", ALIGNED, tokens)
    # Labels of rows are refused where tokens are meant, and the other way round; without any both are often taken.
    return [of_tokens, of_rows] if present & {"token_mask", "target"} else [of_rows, of_tokens]


def _contrastive(meanings: Mapping[str, str]) -> list[Reading]:
    pairs: Forms = {"embedding": ("embeddings", "B D", {}), "confidence": ("values", "B", {"low": 0.0, "high": 1.0})}
    signs: Form = ("values", "B", {"signs": True})
    with_signs = [
        Reading("embeddings [B, D] with targets -1 or 1", ROWS, {**pairs, "target": signs}),
        Reading("numbers [B] with targets -1 or 1", ROWS, {"embedding": ("values", "B", {}), "target": signs}),
    ]
    binary: Form = ("values", "B", BINARY_TARGET)
    with_binary = [Reading("embeddings [B, D] with targets 0 or 1", ROWS, {**pairs, "target": binary})]
    tokens = [Reading("embeddings of tokens [B, L, D]", ROWS, {"embedding": ("embeddings", "B L D", {})})]
    # Of two classes, so that small batches hold rows that belong together and rows that do not.
    with_classes = [
        Reading("embeddings [B, D] with class ids [B]", ROWS, {**pairs, "target": _TWO_CLASSES}),
        Reading(
            "embeddings of two views [B, 2, D] with class ids [B]",
            ROWS,
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
