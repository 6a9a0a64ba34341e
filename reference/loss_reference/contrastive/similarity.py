"""Similarities of embedding pairs, and the weights of the terms built from them."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from loss_reference.interface import Batch, ModelOutputs, Outputs
from loss_reference.reduction import keep_active, row_weights
from loss_reference.shapes import is_readable, require_shape

__all__ = [
    "NORM_FLOOR",
    "active_embeddings",
    "active_rows",
    "cosine_similarity",
    "dot_products",
    "index_pairs",
    "unit_vectors",
]

NORM_FLOOR: Final = 1e-8
"""A vector shorter than this is divided by it instead of by its length: a zero vector has similarity 0 to all."""


def unit_vectors(embeddings: Tensor) -> Tensor:
    """Return e / |e| for every row of ``embeddings`` [B, D]; one shorter than ``NORM_FLOOR`` is divided by that."""
    norms = torch.linalg.vector_norm(embeddings, dim=-1, keepdim=True)
    units: Tensor = embeddings / norms.clamp(min=NORM_FLOOR)
    return units


def dot_products(x: Tensor, y: Tensor) -> Tensor:
    """Return x_i . y_j [B, C] for rows ``x`` [B, D] and ``y`` [C, D], in their own precision also under autocast."""
    with torch.autocast(x.device.type, enabled=False):
        return x @ y.T


def cosine_similarity(embeddings: Tensor, pairs: Tensor) -> Tensor:
    """Return cos(e_i, e_j) in [-1, 1] for every row (i, j) of ``pairs`` [N, 2] into ``embeddings`` [B, D]."""
    units = unit_vectors(embeddings)
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


def active_rows(batch: Batch, model_outputs: Outputs, *names: str) -> tuple[list[Tensor], Tensor]:
    """Return ([x, ...], w): the model outputs of these names, [B, D] each, 0 in absent rows, and the row weights [B].

    Raises:
        KeyError: no such model output.
        ValueError: the first is not [B, D], another has another shape, ``sample_mask`` is not [B].
    """
    first = model_outputs[names[0]]
    require_shape(names[0], first, ("B", "D"), "one vector per row")
    for name in names[1:]:
        require_shape(name, model_outputs[name], tuple(first.shape), f"that of {names[0]}")
    w = row_weights(batch, first)
    return [keep_active(model_outputs[name], w) for name in names], w


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
