"""Similarities of embedding pairs, and the weights of the terms built from them."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from loss_reference.interface import Batch, ModelOutputs, Outputs
from loss_reference.reduction import keep_active, row_weights
from loss_reference.shapes import is_readable, require_shape

__all__ = ["NORM_FLOOR", "active_embeddings", "cosine_similarity", "index_pairs"]

NORM_FLOOR: Final = 1e-8
"""A vector shorter than this is divided by it instead of by its length: a zero vector has similarity 0 to all."""


def cosine_similarity(embeddings: Tensor, pairs: Tensor) -> Tensor:
    """Return cos(e_i, e_j) in [-1, 1] for every row (i, j) of ``pairs`` [N, 2] into ``embeddings`` [B, D]."""
    norms = torch.linalg.vector_norm(embeddings, dim=-1, keepdim=True)
    units = embeddings / norms.clamp(min=NORM_FLOOR)
    i, j = pairs.unbind(dim=1)
    similarity: Tensor = (units[i] * units[j]).sum(dim=-1)
    return similarity


def active_embeddings(batch: Batch, model_outputs: Outputs) -> tuple[ModelOutputs, Tensor]:
    """Return (model outputs in which absent rows are embedded at 0, row weights [B]).

    Raises:
        ValueError: ``embeddings`` are not [B, D], ``sample_mask`` is not [B].
    """
    embeddings = model_outputs["embeddings"]
    require_shape("embeddings", embeddings, ("B", "D"), "one vector per row")
    w = row_weights(batch, embeddings)
    return ModelOutputs({**model_outputs, "embeddings": keep_active(embeddings, w)}), w


def index_pairs(batch: Batch, name: str, rows: int) -> Tensor:
    """Return ``batch[name]`` [N, 2], pairs of row numbers.

    Raises:
        ValueError: it is not [N, 2], or a number is outside [0, rows).
    """
    pairs = batch[name]
    require_shape(name, pairs, ("N", 2), "pairs of row numbers")
    if is_readable(pairs) and not 0 <= int(pairs.min()) <= int(pairs.max()) < rows:
        raise ValueError(
            f"{name} holds rows {int(pairs.min())} to {int(pairs.max())}; the embeddings have rows 0 to {rows - 1}"
        )
    return pairs.long()
