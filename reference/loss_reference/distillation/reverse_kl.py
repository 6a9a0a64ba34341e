"""Reverse KL distillation."""

from __future__ import annotations

from torch import Tensor

from loss_reference.distillation.divergence import DivergenceLoss
from loss_reference.distillation.kl import reverse_kl
from loss_reference.registry import register

__all__ = ["ReverseKLLoss"]


@register("reverse_kl")
class ReverseKLLoss(DivergenceLoss):
    """Reverse KL: L = sum m KL(q || p) / T_g with teacher p and student q; the student avoids what the teacher would not say.

    Reads ``logits`` [B, S, V], ``teacher_logits`` [B, S, V] (or ``teacher_topk_logits`` and ``teacher_topk_indices``
    [B, S, K], both sides renormalised over these K) and ``token_mask`` [B, S]; optional ``sample_mask`` [B],
    ``global_valid_toks``. Result in nats per token, at least 0, 0 exactly where p = q. Logits of -inf give probability 0;
    a teacher of probability 0 where the student's is above 0 gives inf. Only the student receives gradient:
    dL/dlogits = m q (log q - log p - KL) / (temperature T_g).

    Config: ``temperature`` (1, above 0) divides both logits; the result is not multiplied by its square;
    ``chunk_size`` (None: as many as are compared fastest) positions are compared at a time.

    Raises:
        KeyError: neither form of the teacher.
        ValueError: shapes that do not belong together, an index outside the vocabulary.
        ConfigError: a setting out of range or unknown.

    Source: arXiv 2306.08543, eq. 1; NeMo RL ``DistillationLossFn``.
    """

    strict_config = True

    def divergence(self, log_p: Tensor, log_q: Tensor, /) -> Tensor:
        return reverse_kl(log_p, log_q)
