"""Forward KL distillation."""

from __future__ import annotations

from torch import Tensor

from loss_reference.distillation.divergence import DivergenceLoss
from loss_reference.distillation.kl import forward_kl
from loss_reference.registry import register

__all__ = ["ForwardKLLoss"]


@register("forward_kl")
class ForwardKLLoss(DivergenceLoss):
    """Forward KL: L = sum m KL(p || q) / T_g with teacher p and student q; the student covers every mode of the teacher.

    Reads ``logits`` [B, S, V], ``teacher_logits`` [B, S, V] (or ``teacher_topk_logits`` and ``teacher_topk_indices``
    [B, S, K], both sides renormalised over these K) and ``token_mask`` [B, S]; optional ``sample_mask`` [B],
    ``global_valid_toks``. Result in nats per token, at least 0, 0 exactly where p = q. Logits of -inf give probability 0;
    a student of probability 0 where the teacher's is above 0 gives inf. Only the student receives gradient:
    dL/dlogits = m (q - p) / (temperature T_g).

    Config: ``temperature`` (1, above 0) divides both logits; the result is not multiplied by its square;
    ``chunk_size`` (None: as many as are compared fastest) positions are compared at a time.

    Raises:
        KeyError: neither form of the teacher.
        ValueError: shapes that do not belong together, an index outside the vocabulary.
        ConfigError: a setting out of range or unknown.

    Source: arXiv 1503.02531, section 2, less the entropy of the teacher; NeMo RL ``DistillationLossFn``.
    """

    strict_config = True

    def divergence(self, log_p: Tensor, log_q: Tensor, /) -> Tensor:
        return forward_kl(log_p, log_q)
