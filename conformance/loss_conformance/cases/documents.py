"""Rows packed from several documents: which document each token belongs to, and where one begins."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

if TYPE_CHECKING:
    from loss_conformance.cases.values import World

__all__ = ["DOCUMENTS", "SAYS_WHICH_DOCUMENT", "begins", "documents"]

DOCUMENTS: Final = "documents"
"""Kind of numbers [B, S] that are alike for the tokens of one document, and change where the next one begins."""

SAYS_WHICH_DOCUMENT: Final = re.compile(r"(document|doc|segment|packed_seq|packed_sequence|packing)s?_?(ids?|idx)")
"""Names of such numbers. ``sequence_ids`` is not among them: elsewhere these are the tokens of a sequence."""


def documents(world: World) -> Tensor:
    """Return [B, S] document ids, each of one document of the whole batch; none is 0, which some give to padding.

    A document begins at a token that is not trained on: a loss that takes care of it, and one whose labels do, agree there.
    """
    first = ~world.trained & (world.integers(2, world.rows, world.tokens) == 1)
    first[:, 0] = False
    return 1 + first.long().cumsum(1) + world.tokens * torch.arange(world.rows)[:, None]


def begins(ids: Tensor) -> Tensor:
    """Return [B, S] bool: the tokens at which a document begins, other than the first of the row."""
    first = torch.zeros_like(ids, dtype=torch.bool)
    first[:, 1:] = ids[:, 1:] != ids[:, :-1]
    return first
