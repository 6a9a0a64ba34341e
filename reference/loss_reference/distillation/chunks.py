"""Chunks: the pieces of text that student and teacher spell in their own tokens, and means over their positions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from loss_reference.interface import Batch
from loss_reference.reduction import keep_active, row_weights
from loss_reference.shapes import require_shape

__all__ = ["Chunks", "chunk_mean"]


@dataclass(frozen=True)
class Chunks:
    """Which positions of both sides make up each chunk.

    Attributes:
        student: [B, S] the chunk of each of the student's positions, C where it is in none that counts.
        teacher: [B, R] the same of the teacher's positions.
        weights: [B, C] weight of each chunk, 0 where one side has no position in it.
    """

    student: Tensor
    teacher: Tensor
    weights: Tensor

    @classmethod
    def of(cls, batch: Batch, logits: Tensor, teacher: Tensor) -> Chunks:
        """Return the chunks of a batch for scores ``logits`` [B, S, V] and ``teacher`` [B, R, U].

        Reads ``student_chunk_ids`` [B, S], ``teacher_chunk_ids`` [B, R] (an id outside [0, C) belongs to no chunk),
        ``chunk_valid`` [B, C], and ``sample_mask`` [B] when it is there.

        Raises:
            ValueError: shapes that do not belong together.
        """
        B, valid = logits.shape[0], batch["chunk_valid"]
        require_shape("chunk_valid", valid, (B, "C"), "one entry per chunk")
        sides = []
        for name, scores in (("student_chunk_ids", logits), ("teacher_chunk_ids", teacher)):
            require_shape(name, batch[name], tuple(scores.shape[:2]), "one chunk per position")
            sides.append(_inside(batch[name], valid.shape[1]))
        rows = row_weights(batch, logits).unsqueeze(1).expand(valid.shape)
        weights = keep_active(valid.detach(), rows).to(rows) * rows
        for side in sides:
            weights = weights * (_sizes(side, weights) > 0)
        student, teacher_side = (_counted(side, weights) for side in sides)
        return cls(student, teacher_side, weights)

    def counted(self, side: Tensor) -> Tensor:
        """Return which positions of a side, [B, S] or [B, R], are in a chunk that counts."""
        return side < self.weights.shape[1]


def chunk_mean(x: Tensor, side: Tensor, weights: Tensor) -> Tensor:
    """Return the mean [B, C, K] of ``x`` [B, S, K] over the positions of each chunk; 0 for a chunk that does not count.

    Args:
        x: numbers at every position.
        side: [B, S] the chunk of each position, C for none.
        weights: [B, C], for their shape.
    """
    B, C = weights.shape
    sums = x.new_zeros(B, C + 1, x.shape[-1]).scatter_add(1, side.unsqueeze(-1).expand(x.shape), x)[:, :C]
    return sums / _sizes(side, weights).to(x).clamp(min=1.0).unsqueeze(-1)


def _inside(ids: Tensor, C: int) -> Tensor:
    return torch.where((ids >= 0) & (ids < C), ids, C).long()


def _sizes(side: Tensor, weights: Tensor) -> Tensor:
    B, C = weights.shape
    ones = torch.ones_like(side, dtype=weights.dtype)
    return weights.new_zeros(B, C + 1).scatter_add(1, side, ones)[:, :C]


def _counted(side: Tensor, weights: Tensor) -> Tensor:
    none = weights.new_zeros(weights.shape[0], 1)
    weight = torch.cat((weights, none), dim=1).gather(1, side)
    return torch.where(weight != 0, side, weights.shape[1])
