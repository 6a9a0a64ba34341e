"""Soft cross entropy: the student's code length for what the teacher would say."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from loss_reference.distillation.divergence import DivergenceLoss
from loss_reference.registry import register

__all__ = ["FORWARD_PARTS", "VALUE_ALONE", "SoftCELoss", "soft_ce"]

FORWARD_PARTS: Final = ("kl", "cross_entropy")
VALUE_ALONE: Final = {"option_effect": "forward_part chooses the value alone; the gradient is the same"}


def soft_ce(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return -sum_v p log q over the last axis, where 0 log 0 = 0: KL(p || q) plus the entropy of p."""
    p = log_p.exp()
    return -(p * torch.where(p > 0, log_q, 0.0)).sum(dim=-1)


@register("soft_ce")
class SoftCELoss(DivergenceLoss):
    """Soft cross entropy: v = -sum_v p log q = KL(p || q) + H(p), with teacher p and student q.

    Inputs, config and errors as in ``DivergenceLoss``. In nats per token, at least H(p), reached at p = q, so at least 0;
    infinite where q = 0 and p > 0. The gradient is that of ``ForwardKLLoss``, m (q - p) / (temperature T_g) per logit:
    only the value differs, by the teacher's entropy. torchtune's ``ForwardKLLoss`` and DistiLLM's ``forward_kl`` are
    this loss, and so is NeMo RL's ``DraftCrossEntropyLossFn``.

    Source: cross entropy with soft targets, arXiv 1503.02531, section 2, without the factor T^2.
    """

    strict_config = True

    def divergence(self, log_p: Tensor, log_q: Tensor, /) -> Tensor:
        return soft_ce(log_p, log_q)
