"""Arguments along tokens, rows or classes as fields of a batch."""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from loss_conformance.subject.laid_out_rows import Argument, NoCounterpart

__all__ = ["tokens_laid_out"]

# Meaning of a parameter to the field that holds the same.
_OF_TOKENS: Final = {
    **dict.fromkeys(("logprobs", "student_logprobs"), "next_token_logprobs"),
    **dict.fromkeys(("reference_logprobs", "teacher_logprobs"), "reference_policy_logprobs"),
    **{name: name for name in ("advantages", "returns", "token_mask")},
    "old_logprobs": "prev_logprobs",
    "generation_logprobs": "generation_logprobs",
    "values": "values of the model",
    "old_values": "values",
}
_OF_CLASSES: Final = {
    **dict.fromkeys(("student", "student_probabilities", "student_logprobs"), "logits"),
    **dict.fromkeys(("prediction", "probabilities", "logprobs"), "logits"),
    **dict.fromkeys(("teacher", "teacher_probabilities", "teacher_logprobs"), "teacher_logits"),
}
_OF_ROWS: Final = {"rows_mask": "sample_mask", "rewards": "rewards"}
# Entry t of these speaks of token t + 1, of every other field of token t.
_PREDICTIONS: Final = ("logits", "next_token_logprobs", "teacher_logits")


class _Strip(NamedTuple):
    """Numbers [B, L, ...] along tokens, and the token the first of them speaks of."""

    numbers: Tensor
    first: int


def tokens_laid_out(given: list[Argument]) -> dict[str, Tensor]:
    """Return the fields of losses of tokens; rows and classes become sequences, every entry a trained token.

    Raises:
        NoCounterpart: an argument that no field stands for.
    """
    rows: dict[str, Tensor] = {}
    strips: dict[str, _Strip] = {}
    for argument in given:
        if argument.meaning in _OF_ROWS:
            rows[_OF_ROWS[argument.meaning]] = argument.numbers
        elif argument.meaning == "count":
            rows["global_valid_toks"] = argument.numbers
        else:
            strips |= _strips(argument)
            rows |= _numbers_of_rows(argument)
    strips = _counted_from_one(strips)
    longest = max(strips.values(), key=lambda strip: (strip.numbers.shape[1], strip.first))
    strips = {name: _along(strip, longest) for name, strip in strips.items()}
    ones = torch.ones(longest.numbers.shape[:2], dtype=torch.float64)
    strips.setdefault("token_mask", longest._replace(numbers=ones))
    length = max(first + numbers.shape[1] for numbers, first in strips.values())
    fields = {name: _placed(strip, length, name in _PREDICTIONS) for name, strip in strips.items()}
    if "next_token_logprobs" in fields:
        fields["next_token_logprobs"] = fields["next_token_logprobs"][:, :-1]
    mask = fields["token_mask"].to(torch.float64)
    fields["token_mask"] = mask * fields.pop("labelled", torch.ones_like(mask))
    fields.setdefault("input_ids", torch.zeros(mask.shape, dtype=torch.long))
    return fields | rows


def _strips(argument: Argument) -> dict[str, _Strip]:
    meaning, slot, numbers = argument
    if "V" in slot.shape and meaning in _OF_CLASSES:
        scores = (numbers.log() if slot.role == "probabilities" else numbers).movedim(slot.shape.index("V"), -1)
        return {_OF_CLASSES[meaning]: _Strip(scores.reshape(len(scores), -1, scores.shape[-1]), slot.shift)}
    flat = numbers.reshape(len(numbers), -1)
    if slot.role in ("labels", "token_ids"):
        labelled = flat != slot.ignore if slot.ignore is not None else torch.ones_like(flat, dtype=torch.bool)
        ids = torch.where(labelled, flat, 0)
        return {"input_ids": _Strip(ids, slot.shift), "labelled": _Strip(labelled.to(torch.float64), slot.shift)}
    if meaning in _OF_TOKENS:
        return {_OF_TOKENS[meaning]: _Strip(flat, slot.shift)}
    if slot.role == "values" and meaning in ("prediction", "target"):
        return {"values of the model" if meaning == "prediction" else "returns": _Strip(flat, slot.shift)}
    raise NoCounterpart(slot.name)


def _numbers_of_rows(argument: Argument) -> dict[str, Tensor]:
    """Return the fields of one number per row a plain prediction, or its target, may be called by as well."""
    meaning, slot, numbers = argument
    if slot.shape != ("B",) or slot.role not in ("values", "labels"):
        return {}
    if meaning == "prediction":
        return {"rewards of the model": numbers}
    return dict.fromkeys(("scores", "labels"), numbers) if meaning == "target" else {}


def _counted_from_one(strips: dict[str, _Strip]) -> dict[str, _Strip]:
    """Return the strips with their tokens counted from 1 where one stands at its own token: entry 0 is never trained."""
    predicted = [strips[name].first for name in _PREDICTIONS if name in strips]
    standing = all(first == 0 for first in predicted) and any(strip.first == 0 for strip in strips.values())
    return {name: strip._replace(first=strip.first + int(standing)) for name, strip in strips.items()}


def _along(strip: _Strip, longest: _Strip) -> _Strip:
    """Return a strip of one number per row repeated along the tokens of the longest one."""
    if strip.numbers.shape[1] > 1:
        return strip
    return _Strip(strip.numbers.expand(-1, longest.numbers.shape[1], *strip.numbers.shape[2:]), longest.first)


def _placed(strip: _Strip, length: int, prediction: bool) -> Tensor:
    """Return the numbers at their tokens of a sequence of this length, zeros elsewhere."""
    before = strip.first - int(prediction)
    after = length - before - strip.numbers.shape[1]
    return F.pad(strip.numbers, (*(0, 0) * (strip.numbers.dim() - 2), before, after))
