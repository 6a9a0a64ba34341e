"""Total variation distance."""

from __future__ import annotations

from torch import Tensor

from loss_reference.distillation.divergence import DivergenceLoss
from loss_reference.registry import register
from loss_reference.token_level import refine

__all__ = ["TVDLoss", "tvd"]


def tvd(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return sum_v |p - q| / 2 over the last axis: the probability that must be moved to turn q into p."""
    return (log_p.exp() - log_q.exp()).abs().sum(dim=-1) / 2


@register("tvd")
class TVDLoss(DivergenceLoss):
    """Total variation: v = sum_v |p - q| / 2, with teacher p and student q.

    Inputs, config and errors as in ``DivergenceLoss``. A probability, in [0, 1]; 0 exactly where p = q, symmetric.
    Its slope is at most q (1 - q) / temperature per logit, so a student that is sure and wrong hardly moves. An entry at
    p = q has subgradient 0 (Liger takes -1/2, which differs only where some entries are equal and others are not).

    Source: arXiv 2307.15190.
    """

    contract = refine(DivergenceLoss.contract, upper_bound=1.0)
    strict_config = True

    def divergence(self, log_p: Tensor, log_q: Tensor, /) -> Tensor:
        return tvd(log_p, log_q)
