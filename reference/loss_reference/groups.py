"""Groups of K neighbouring rows, such as K answers to one prompt: rows 0 .. K-1 are the first group."""

from __future__ import annotations

from torch import Tensor

from loss_reference.interface import Batch
from loss_reference.reduction import global_count, mean_of_terms

__all__ = ["group_count", "group_weights", "mean_of_groups", "split_groups"]


def split_groups(rows: Tensor, size: int, what: str = "the batch") -> Tensor:
    """Return [B/K, K, ...] of ``rows`` [B, ...], K = ``size``.

    Raises:
        ValueError: the rows do not make whole groups.
    """
    if rows.shape[0] % size:
        raise ValueError(f"{what} has {rows.shape[0]} rows; groups have {size}, so expected a multiple of {size}")
    return rows.reshape(rows.shape[0] // size, size, *rows.shape[1:])


def group_weights(weights: Tensor, size: int) -> Tensor:
    """Return [B/K]: a group weighs the smallest of its rows' ``weights`` [B]."""
    return split_groups(weights, size).amin(dim=1)


def group_count(weights: Tensor, batch: Batch, size: int) -> Tensor:
    """Return what ``mean_of_groups`` divides by: ``global_valid_seqs`` / K, or the local sum of group weights; at least 1."""
    sequences = global_count(batch, "global_valid_seqs")
    count = group_weights(weights, size).sum() if sequences is None else sequences.detach().to(weights) / size
    return count.clamp(min=1.0)


def mean_of_groups(terms: Tensor, weights: Tensor, batch: Batch, size: int) -> Tensor:
    """Return the weighted mean of [B/K] group terms.

    A group weighs the smallest of its rows' weights. The divisor is that of ``group_count``.
    """
    return mean_of_terms(terms, group_weights(weights, size), group_count(weights, batch, size))
