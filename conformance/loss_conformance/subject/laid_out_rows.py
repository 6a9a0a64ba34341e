"""Pairs and embeddings as rows of a batch."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from loss_conformance.cases.slot import Slot

__all__ = ["Argument", "NoCounterpart", "embeddings_laid_out", "pairs_laid_out"]


class NoCounterpart(ValueError):
    """An argument that no field of a batch stands for."""


class Argument(NamedTuple):
    """What a loss is called with: what it means by its name, its slot, and its numbers."""

    meaning: str
    slot: Slot
    numbers: Tensor


_OF_PAIRS: Final = {
    "next_token_logprobs": ("pair.policy_chosen_logps", "pair.policy_rejected_logps"),
    "reference_policy_logprobs": ("pair.reference_chosen_logps", "pair.reference_rejected_logps"),
    "rewards of the model": ("pair.chosen_rewards", "pair.rejected_rewards"),
}
_BOTH_ROWS: Final = {"margin": "margin", "pair.margin": "margin", "rows_mask": "sample_mask"}
_SIDES: Final = ("chosen", "rejected")
_OF_ONE_SIDE: Final = (
    re.compile(r"(.*_)?(chosen|win(ner)?|w)(_.*)?"),
    re.compile(r"(.*_)?(rejected|los(er|e)|l)(_.*)?"),
)
"""What a mask is called that is of one side of each pair."""


def pairs_laid_out(given: list[Argument]) -> dict[str, Tensor]:
    """Return interleaved rows, chosen and rejected.

    One log-probability per answer is that of a sequence with one trained token; one per token is of tokens 1, 2, ...

    Raises:
        NoCounterpart: an argument is neither a side of a pair nor a number of the whole pair.
    """
    numbers = {argument.meaning: argument.numbers for argument in given if argument.meaning != "token_mask"}
    placed = {side for sides in _OF_PAIRS.values() for side in sides} | _BOTH_ROWS.keys() | {"token_mask"}
    if numbers.keys() & {"pair.chosen_logits", "pair.rejected_logits"}:
        return _scored_pairs(given, numbers)
    _require_placed(given, placed)
    fields = {
        name: _interleaved(numbers[chosen], numbers[rejected])
        for name, (chosen, rejected) in _OF_PAIRS.items()
        if chosen in numbers and rejected in numbers
    }
    if "rewards of the model" in fields:
        fields["rewards of the model"] = fields["rewards of the model"].squeeze(1)
    rows, tokens = next(iter(fields.values())).reshape(len(next(iter(fields.values()))), -1).shape
    fields |= {_BOTH_ROWS[name]: numbers[name].repeat_interleave(2) for name in numbers if name in _BOTH_ROWS}
    if "reference_policy_logprobs" in fields:
        fields["reference_policy_logprobs"] = F.pad(fields["reference_policy_logprobs"], (1, 0))
    mask = _masks_of_sides(given)
    mask = torch.ones(rows, tokens) if mask is None else mask
    ids = torch.zeros(rows, tokens + 1, dtype=torch.long)
    return {**fields, "token_mask": F.pad(mask, (1, 0), value=1.0), "input_ids": ids}


def _interleaved(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Return [2 B, tokens] from [B] or [B, tokens] of each side."""
    if chosen.shape != rejected.shape or chosen.dim() > 2:
        raise NoCounterpart("answers of different shapes")
    return torch.stack((chosen, rejected), dim=1).reshape(2 * len(chosen), -1)


def _masks_of_sides(given: list[Argument]) -> Tensor | None:
    """Return the mask of tokens of all rows: one of each side, or one of both; ``None`` without any.

    Raises:
        NoCounterpart: masks that are of neither.
    """
    masks = [argument for argument in given if argument.meaning == "token_mask"]
    if not masks:
        return None
    if len(masks) == 1:
        return _interleaved(masks[0].numbers, masks[0].numbers)
    sides = [[m.numbers for m in masks if side.fullmatch(m.slot.name.lower())] for side in _OF_ONE_SIDE]
    if len(masks) != 2 or [len(side) for side in sides] != [1, 1]:
        raise NoCounterpart(", ".join(mask.slot.name for mask in masks))
    return _interleaved(sides[0][0], sides[1][0])


def _scored_pairs(given: list[Argument], numbers: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the scores of both answers and the tokens that were scored; what is not labelled is not trained.

    Raises:
        NoCounterpart: scores that stand beside no labels of the same tokens.
    """
    _require_placed(given, {f"pair.{side}_{what}" for side in _SIDES for what in ("logits", "labels")} | {"rows_mask"})
    scores, labels = (
        [argument for side in _SIDES for argument in given if argument.meaning == f"pair.{side}_{what}"]
        for what in ("logits", "labels")
    )
    if len(scores) != 2 or len(labels) != 2 or scores[0].slot.shift != scores[1].slot.shift:
        raise NoCounterpart(", ".join(argument.slot.name for argument in given))
    logits = torch.stack([each.numbers for each in scores], dim=1).flatten(0, 1)
    ids = torch.stack([each.numbers for each in labels], dim=1).flatten(0, 1)
    if scores[0].slot.shift == 0:  # of the very token: moved on by one, behind a first token nobody predicts
        logits, ids = F.pad(logits, (0, 0, 0, 1)), F.pad(ids, (1, 0))
    ignored = labels[0].slot.ignore
    trained = torch.ones_like(ids, dtype=torch.bool) if ignored is None else ids != ignored
    fields = {"logits": logits, "input_ids": torch.where(trained, ids, 0), "token_mask": trained.to(torch.float64)}
    if "rows_mask" in numbers:
        fields["sample_mask"] = numbers["rows_mask"].repeat_interleave(2)
    return fields


def embeddings_laid_out(given: list[Argument]) -> dict[str, Tensor]:
    """Return embeddings under every name a reference may read them by; rows of two views belong together.

    Raises:
        NoCounterpart: more than three embeddings, or something else than embeddings, labels and a row mask.
    """
    _require_placed(given, {"embedding", "target", "rows_mask"})
    views = [argument.numbers for argument in given if argument.meaning == "embedding"]
    labels = next((argument.numbers for argument in given if argument.meaning == "target"), None)
    present = next((argument.numbers for argument in given if argument.meaning == "rows_mask"), None)
    rest = {} if present is None else {"sample_mask": present}
    if any(view.dim() != 2 for view in views) or (labels is not None and labels.is_floating_point()):
        raise NoCounterpart(", ".join(argument.slot.name for argument in given))
    if len(views) == 3:
        return dict(zip(("anchor_embeddings", "positive_embeddings", "negative_embeddings"), views, strict=True)) | rest
    if len(views) == 2 and labels is None:
        of_rows = torch.arange(len(views[0])).repeat(2)
        names = ("image_embeddings", "text_embeddings", "anchor_embeddings", "positive_embeddings")
        return dict(zip(names, views * 2, strict=True)) | {"embeddings": torch.cat(views), "labels": of_rows} | rest
    if len(views) == 1 and labels is not None:
        return {"embeddings": views[0], "labels": labels} | rest
    raise NoCounterpart(", ".join(argument.slot.name for argument in given))


def _require_placed(given: list[Argument], placed: set[str]) -> None:
    for argument in given:
        if argument.meaning not in placed:
            raise NoCounterpart(argument.slot.name)
