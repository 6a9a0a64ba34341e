"""Preference pairs: rows 0, 2, 4, ... are chosen, rows 1, 3, 5, ... rejected."""

from __future__ import annotations

import torch
from torch import Tensor

from loss_reference.interface import Batch
from loss_reference.reduction import global_count, mean_of_terms

__all__ = ["mean_of_pairs", "pair_count", "pair_weights", "split_pairs"]


def split_pairs(rows: Tensor, what: str = "the batch") -> tuple[Tensor, Tensor]:
    """Return (chosen, rejected), each [B/2, ...], of interleaved ``rows`` [B, ...].

    Raises:
        ValueError: an odd number of rows.
    """
    if rows.shape[0] % 2:
        raise ValueError(
            f"{what} has {rows.shape[0]} rows; pairs are interleaved (chosen, rejected), so expected an even number"
        )
    return rows[0::2], rows[1::2]


def pair_weights(weights: Tensor) -> Tensor:
    """Return [B/2]: a pair weighs the smaller of its rows' ``weights`` [B]."""
    return torch.minimum(*split_pairs(weights))


def mean_of_pairs(terms: Tensor, weights: Tensor, batch: Batch) -> Tensor:
    """Return the weighted mean of [B/2] pair terms.

    A pair weighs the smaller of its rows' weights. The divisor is half of ``global_valid_seqs``, in which a pair counts
    two, or the local sum of pair weights; at least 1.
    """
    return mean_of_terms(terms, pair_weights(weights), pair_count(weights, batch))


def pair_count(weights: Tensor, batch: Batch) -> Tensor:
    """Return the divisor of a mean over pairs, at least 1: half of ``global_valid_seqs``, or the sum of pair weights."""
    sequences = global_count(batch, "global_valid_seqs")
    count = pair_weights(weights).sum() if sequences is None else sequences.detach().to(weights) / 2
    return count.clamp(min=1.0)
