"""Kullback-Leibler divergences between teacher p and student q, and where p and q come from."""

from __future__ import annotations

import torch
from torch import Tensor

from loss_reference.interface import Batch, Outputs
from loss_reference.logprobs import require_inside_vocabulary
from loss_reference.reduction import keep_active, token_weights
from loss_reference.shapes import require_shape

__all__ = ["forward_kl", "mixed_kl", "reverse_kl", "teacher_and_student"]


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
    logits = model_outputs["logits"]
    require_shape("logits", logits, (*batch["token_mask"].shape, "V"), "V scores per entry of token_mask")
    m = token_weights(batch, logits[:, :-1, 0])
    z_q = keep_active(logits[:, :-1], m)
    teacher = batch.get("teacher_logits")
    if teacher is not None:
        require_shape("teacher_logits", teacher, tuple(logits.shape), "that of logits")
    elif "teacher_topk_logits" in batch:
        teacher = batch["teacher_topk_logits"]
        require_shape("teacher_topk_logits", teacher, (*logits.shape[:2], "K"), "K scores per token")
        z_q = z_q.gather(-1, _topk_indices(batch, m, logits.shape[-1]))
    else:
        raise KeyError("batch needs 'teacher_logits', or 'teacher_topk_logits' and 'teacher_topk_indices'")
    z_p = keep_active(teacher.detach()[:, :-1], m).to(z_q.dtype)
    return (z_p / temperature).log_softmax(dim=-1), (z_q / temperature).log_softmax(dim=-1), m


def _topk_indices(batch: Batch, m: Tensor, vocabulary: int) -> Tensor:
    indices = batch["teacher_topk_indices"]
    require_shape("teacher_topk_indices", indices, tuple(batch["teacher_topk_logits"].shape), "as teacher_topk_logits")
    inside = torch.where((m != 0).unsqueeze(-1), indices[:, :-1], 0).long()
    require_inside_vocabulary("teacher_topk_indices", inside, vocabulary)
    return inside


def _kl(log_a: Tensor, log_b: Tensor) -> Tensor:
    # A token of probability 0 under a adds nothing even where b is 0 too: -inf - (-inf) must not become NaN.
    a = log_a.exp()
    return (a * torch.where(a > 0, log_a - log_b, 0.0)).sum(dim=-1)
