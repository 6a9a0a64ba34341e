"""Distillation from the teacher's likeliest tokens alone: what becomes of the others."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from loss_reference.contract import Contract, Option
from loss_reference.distillation.divergence import DISTILLATION, TEMPERATURE
from loss_reference.distillation.kl import KL_TYPES, forward_kl, kl_of_type, reverse_kl
from loss_reference.distillation.teacher import topk_support
from loss_reference.interface import Batch, LossFunction, Outputs
from loss_reference.reduction import global_count, mean_of_terms
from loss_reference.registry import register
from loss_reference.relevance import where
from loss_reference.settings import Setting
from loss_reference.supervised.next_token import trained_logits
from loss_reference.token_level import refine

__all__ = ["LOGPROB_OUTSIDE_TOPK", "TopKRenormLoss", "ZeroOutsideTopKLoss", "topk_renorm", "zero_outside_topk"]

LOGPROB_OUTSIDE_TOPK: Final = -100.0
"""Log-probability of a token outside the top K under a teacher that is to be 0 there, as in NeMo RL: e^-100 = 4e-44."""

TOPK: Final = refine(
    DISTILLATION,
    options={
        "temperature": TEMPERATURE,
        "k": Option(values=(1, 2, 64)),
        "kl_type": Option(values=KL_TYPES),
        "mixed_kl_weight": Option(values=(0.0, 0.5, 1.0)),
    },
)


def topk_renorm(z_p: Tensor, z_q: Tensor, support: Tensor, kl_type: str = "forward", w: float = 0.5) -> Tensor:
    """Return a KL between p and q, both a softmax over the K tokens of ``support`` alone, one term per position.

    Args:
        z_p: scores [..., K] of the teacher for these tokens.
        z_q: scores [..., V] of the student for all tokens.
        support: K different token ids [..., K].
        kl_type: ``"forward"`` KL(p || q), ``"reverse"`` KL(q || p) or ``"mixed"``.
        w: the weight, in [0, 1], of the forward one in ``"mixed"``.
    """
    log_p, log_q = z_p.log_softmax(dim=-1), z_q.gather(-1, support).log_softmax(dim=-1)
    return kl_of_type(kl_type, log_p, log_q, w)


def zero_outside_topk(z_p: Tensor, z_q: Tensor, support: Tensor, kl_type: str = "forward", w: float = 0.5) -> Tensor:
    """Return a KL between p, a softmax over the K tokens of ``support``, and q, one over all V, one term per position.

    Forward: sum over the K of p (log p - log q). Reverse: sum over all V of q (log q - log p), log p = -100 outside the K.

    Args:
        z_p, z_q, support, kl_type, w: as in ``topk_renorm``.
    """
    log_p, log_q = z_p.log_softmax(dim=-1), z_q.log_softmax(dim=-1)
    everywhere = torch.full_like(log_q, LOGPROB_OUTSIDE_TOPK).scatter(-1, support, log_p)
    forward, reverse = forward_kl(log_p, log_q.gather(-1, support)), reverse_kl(everywhere, log_q)
    w = {"forward": 1.0, "reverse": 0.0}.get(kl_type, w)
    return w * forward + (1 - w) * reverse if 0 < w < 1 else forward if w else reverse


class TopKLoss(LossFunction):
    """A divergence that looks at the teacher's K likeliest tokens. See ``TopKRenormLoss`` for config and errors."""

    contract: Contract = TOPK
    temperature = Setting(1.0, above=0.0)
    k = Setting(64, least=1)
    kl_type = Setting("forward", choices=KL_TYPES)
    mixed_kl_weight = Setting(0.5, least=0.0, most=1.0, read_when=where("kl_type", "mixed"))

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        z_q, m = trained_logits(batch, model_outputs)
        z_p, support = topk_support(batch, m, z_q.shape[-1], self.k)
        terms = self.divergence(z_p / self.temperature, z_q / self.temperature, support)
        return mean_of_terms(terms, m, global_count(batch, "global_valid_toks"))

    def divergence(self, z_p: Tensor, z_q: Tensor, support: Tensor, /) -> Tensor:
        """Return [B, S-1] terms from the teacher's [B, S-1, K] and the student's [B, S-1, V] scores."""
        raise NotImplementedError(f"{type(self).__name__} must define divergence(self, z_p, z_q, support)")


@register("topk_renorm")
class TopKRenormLoss(TopKLoss):
    """Renormalised top-K divergence: v = KL between teacher and student, both a softmax over the teacher's top K alone.

    Reads ``logits`` [B, S, V], ``teacher_topk_logits`` and ``teacher_topk_indices`` [B, S, K] (or ``teacher_logits``
    [B, S, V], whose K highest are taken) and ``token_mask`` [B, S]; optional ``sample_mask`` [B], ``global_valid_toks``. In
    nats per token, at least 0, 0 where both agree *within* the K tokens: what the student gives to others is not seen,
    and their logits receive no gradient. With K = V it is the full divergence. Only the student receives gradient.

    Config: ``k`` (64, at least 1; not read when the batch has the top K); ``kl_type`` (``"forward"``: KL(p || q);
    ``"reverse"``: KL(q || p); ``"mixed"``: their mixture) and ``mixed_kl_weight`` (0.5, in [0, 1], of the forward one);
    ``temperature`` (1, above 0).

    Raises:
        KeyError: neither form of the teacher.
        ValueError: shapes that do not belong together, an index outside the vocabulary.
        ConfigError: a setting out of range or unknown.

    Source: NeMo RL ``DistillationLossFn`` with ``zero_outside_topk=False``, its default.
    """

    strict_config = True

    def divergence(self, z_p: Tensor, z_q: Tensor, support: Tensor, /) -> Tensor:
        return topk_renorm(z_p, z_q, support, self.kl_type, self.mixed_kl_weight)


@register("zero_outside_topk", "zero_outside")
class ZeroOutsideTopKLoss(TopKLoss):
    """Top-K divergence against a teacher that is 0 elsewhere: p a softmax over the top K, q one over all V tokens.

    Inputs, config and errors as in ``TopKRenormLoss``. Forward: v = sum over the K tokens of p (log p - log q). Reverse:
    v = sum over all V of q (log q - log p), where a token outside the K has log p = -100, so that probability there costs
    100 nats and more. In nats per token; forward at least 0, reverse at least -(V - K) e^-100. The student is pushed into
    the top K; with K = V it is the full divergence. Only the student receives gradient.

    Config: that of ``TopKRenormLoss``.

    Source: NeMo RL ``DistillationLossFn`` with ``zero_outside_topk=True``.
    """

    strict_config = True

    def divergence(self, z_p: Tensor, z_q: Tensor, support: Tensor, /) -> Tensor:
        return zero_outside_topk(z_p, z_q, support, self.kl_type, self.mixed_kl_weight)
