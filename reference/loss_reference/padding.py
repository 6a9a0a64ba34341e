"""Losses that read padding on purpose, to give the number of a library that counts it."""

from __future__ import annotations

from typing import Final

from torch import Tensor

from loss_reference.contract import Contract
from loss_reference.token_level import refine

__all__ = ["PADDINGS", "answer_positions", "reading_padding"]

PADDINGS: Final = ("ignored", "counted")
READ_LAWS: Final = ("mask_value", "mask_extreme", "mask_gradient", "padding")


def answer_positions(m: Tensor) -> Tensor:
    """Return whether a position is of the answer: the row's first trained one or any after it, padding too, [B, S-1]."""
    return (m != 0).cumsum(dim=1) > 0


def reading_padding(contract: Contract, library: str) -> Contract:
    """Return ``contract`` without the laws that a loss breaks which counts padding as ``library`` does."""
    reason = f'padding="counted" reads what a masked position holds on purpose, as {library} does'
    return refine(contract, exempt={**contract.exempt, **dict.fromkeys(READ_LAWS, reason)})
