"""Kullback-Leibler divergences between teacher p and student q, and where p and q come from."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from loss_reference.distillation.teacher import teacher_logits, teacher_topk
from loss_reference.interface import Batch, Outputs
from loss_reference.reduction import token_weights
from loss_reference.shapes import require_shape
from loss_reference.supervised.next_token import trained_logits

__all__ = ["KL_TYPES", "forward_kl", "kl_of_type", "mixed_kl", "reverse_kl", "teacher_and_student", "whole_scores"]

KL_TYPES: Final = ("forward", "reverse", "mixed")


def forward_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return KL(p || q) = sum_v p (log p - log q) over the last axis, where 0 log 0 = 0."""
    return _kl(log_p, log_q)


def reverse_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return KL(q || p) = sum_v q (log q - log p) over the last axis, where 0 log 0 = 0."""
    return _kl(log_q, log_p)


def mixed_kl(log_p: Tensor, log_q: Tensor, w: float) -> Tensor:
    """Return w KL(p || q) + (1 - w) KL(q || p); a divergence of weight 0 is not taken, as it may be infinite."""
    if w in (0, 1):
        return forward_kl(log_p, log_q) if w else reverse_kl(log_p, log_q)
    return w * forward_kl(log_p, log_q) + (1 - w) * reverse_kl(log_p, log_q)


def kl_of_type(kl_type: str, log_p: Tensor, log_q: Tensor, w: float = 0.5) -> Tensor:
    """Return the ``"forward"``, ``"reverse"`` or, with weight ``w`` of the forward one, ``"mixed"`` divergence."""
    return mixed_kl(log_p, log_q, {"forward": 1.0, "reverse": 0.0}.get(kl_type, w))


def teacher_and_student(
    batch: Batch, model_outputs: Outputs, temperature: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (log p, log q, m): log-softmax at ``temperature`` of teacher and student [B, S-1, V], and weights [B, S-1].

    The student is ``logits`` [B, S, V] and receives gradient. The teacher is ``teacher_logits`` [B, S, V]; without them
    it is ``teacher_topk_logits`` [B, S, K] on the tokens ``teacher_topk_indices`` [B, S, K], and both are renormalised
    over these K tokens. Position t predicts token t+1. Logits of weight 0 are read as 0.

    Raises:
        KeyError: no ``logits``, or neither form of the teacher.
        ValueError: shapes that do not belong together, an index outside the student's vocabulary.
    """
    z_q, m = trained_logits(batch, model_outputs)
    if batch.get("teacher_logits") is not None:
        z_p = teacher_logits(batch, m, z_q.shape[-1])
    elif "teacher_topk_logits" in batch:
        z_p, indices = teacher_topk(batch, m, z_q.shape[-1])
        z_q = z_q.gather(-1, indices)
    else:
        raise KeyError("batch needs 'teacher_logits', or 'teacher_topk_logits' and 'teacher_topk_indices'")
    return (z_p / temperature).log_softmax(dim=-1), (z_q / temperature).log_softmax(dim=-1), m


def whole_scores(batch: Batch, model_outputs: Outputs) -> tuple[Tensor, Tensor, Tensor]:
    """Return (student's logits, teacher's logits, m): [B, S, V] twice, as they came, and the weights [B, S-1].

    Position t predicts token t+1, the last predicts nothing; leaving it out here would copy the rest.

    Raises:
        ValueError: shapes that do not belong together.
    """
    z_q, z_p = model_outputs["logits"], batch["teacher_logits"]
    require_shape("logits", z_q, (*batch["token_mask"].shape, "V"), "V scores per entry of token_mask")
    require_shape("teacher_logits", z_p, tuple(z_q.shape), "that of logits")
    return z_q, z_p, token_weights(batch, z_q[:, :-1, 0])


def _kl(log_a: Tensor, log_b: Tensor) -> Tensor:
    # A token of probability 0 under a adds nothing even where b is 0 too: -inf - (-inf) must not become NaN.
    a = log_a.exp()
    return (a * torch.where(a > 0, log_a - log_b, 0.0)).sum(dim=-1)
