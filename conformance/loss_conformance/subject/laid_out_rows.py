"""Pairs and embeddings as rows of a batch."""

from __future__ import annotations

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


def pairs_laid_out(given: list[Argument]) -> dict[str, Tensor]:
    """Return interleaved rows, chosen and rejected, each a sequence whose one trained token has the log-probability of all.

    Raises:
        NoCounterpart: an argument is neither a side of a pair nor a number of the whole pair.
    """
    numbers = {argument.meaning: argument.numbers for argument in given}
    placed = {side for sides in _OF_PAIRS.values() for side in sides} | _BOTH_ROWS.keys()
    _require_placed(given, placed)
    fields = {
        name: torch.stack((numbers[chosen], numbers[rejected]), dim=1).flatten()
        for name, (chosen, rejected) in _OF_PAIRS.items()
        if chosen in numbers and rejected in numbers
    }
    rows = len(next(iter(fields.values())))
    fields |= {_BOTH_ROWS[name]: numbers[name].repeat_interleave(2) for name in numbers if name in _BOTH_ROWS}
    if "next_token_logprobs" in fields:
        fields["next_token_logprobs"] = fields["next_token_logprobs"][:, None]
    if "reference_policy_logprobs" in fields:
        fields["reference_policy_logprobs"] = F.pad(fields["reference_policy_logprobs"][:, None], (1, 0))
    return {**fields, "token_mask": torch.ones(rows, 2), "input_ids": torch.zeros(rows, 2, dtype=torch.long)}


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
