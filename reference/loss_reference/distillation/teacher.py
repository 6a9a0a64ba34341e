"""The teacher of a batch: a constant, at the positions whose next token is trained on."""

from __future__ import annotations

import torch
from torch import Tensor

from loss_reference.interface import Batch
from loss_reference.logprobs import require_inside_vocabulary
from loss_reference.reduction import keep_active
from loss_reference.shapes import require_shape

__all__ = ["teacher_logits", "teacher_topk", "topk_support"]


def teacher_logits(batch: Batch, m: Tensor, vocabulary: int | None = None) -> Tensor:
    """Return the scores of ``teacher_logits`` [B, S, V] for the next token, [B, S-1, V], 0 where the weights m are 0.

    Args:
        batch: the batch.
        m: weights [B, S-1]; the result has their dtype.
        vocabulary: the V it must have; ``None`` for a teacher with a vocabulary of its own.

    Raises:
        KeyError: no ``teacher_logits``.
        ValueError: another shape.
    """
    teacher = batch["teacher_logits"]
    expected: tuple[int | str, ...] = (m.shape[0], m.shape[1] + 1, "U" if vocabulary is None else vocabulary)
    why = "one row of scores per token" if vocabulary is None else "that of logits"
    require_shape("teacher_logits", teacher, expected, why)
    return keep_active(teacher.detach()[:, :-1], m).to(m.dtype)


def teacher_topk(batch: Batch, m: Tensor, vocabulary: int) -> tuple[Tensor, Tensor]:
    """Return (scores, token ids), each [B, S-1, K], of ``teacher_topk_logits`` and ``teacher_topk_indices`` [B, S, K].

    Raises:
        KeyError: one of the two is missing.
        ValueError: shapes that do not belong together, an index outside the student's ``vocabulary``.
    """
    teacher, indices = batch["teacher_topk_logits"], batch["teacher_topk_indices"]
    require_shape("teacher_topk_logits", teacher, (m.shape[0], m.shape[1] + 1, "K"), "K scores per token")
    require_shape("teacher_topk_indices", indices, tuple(teacher.shape), "as teacher_topk_logits")
    inside = keep_active(indices[:, :-1], m).long()
    require_inside_vocabulary("teacher_topk_indices", inside, vocabulary)
    return keep_active(teacher.detach()[:, :-1], m).to(m.dtype), inside


def topk_support(batch: Batch, m: Tensor, vocabulary: int, k: int) -> tuple[Tensor, Tensor]:
    """Return (scores, token ids), each [B, S-1, K], of the teacher's K likeliest tokens.

    They are ``teacher_topk_logits`` and ``teacher_topk_indices`` when the batch has them, else the ``k`` highest of
    ``teacher_logits`` [B, S, V], or all V if there are fewer.

    Raises:
        KeyError: neither form of the teacher.
        ValueError: shapes that do not belong together, an index outside the vocabulary.
    """
    if batch.get("teacher_topk_logits") is not None:
        return teacher_topk(batch, m, vocabulary)
    if "teacher_logits" not in batch:
        raise KeyError("batch needs 'teacher_logits', or 'teacher_topk_logits' and 'teacher_topk_indices'")
    scores, indices = torch.topk(teacher_logits(batch, m, vocabulary), min(k, vocabulary), dim=-1)
    return scores, indices
