"""Losses of a ranking of K answers: the order their rewards put them in."""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from loss_reference.plackett_luce import plackett_luce
from loss_reference.preference.groupwise import GroupLoss, group_contract
from loss_reference.preference.pairwise import BETA
from loss_reference.registry import register
from loss_reference.settings import Setting

__all__ = ["LARGEST_LABEL", "LiPOLoss", "PlackettLuceDPOLoss", "lambda_weights", "lipo", "plackett_luce"]

LARGEST_LABEL: Final = 60.0
"""2^60 = 1e18: a gain, and its product with any loss of a pair, is a float32."""


def lambda_weights(s: Tensor, labels: Tensor) -> Tensor:
    """Return [N, K, K]: |2^psi_i - 2^psi_j| |1 / log(1 + tau_i) - 1 / log(1 + tau_j)|, what exchanging i and j is worth.

    Args:
        s: scores [N, K]; tau is the 1-based rank among them, highest first, of equal ones the earlier row first.
        labels: psi [N, K], taken no higher than 60, where 2^psi leaves the range of float32.
    """
    order = s.detach().argsort(dim=1, descending=True, stable=True)
    tau = order.argsort(dim=1).to(s.dtype) + 1
    gain, discount = torch.exp2(labels.clamp(max=LARGEST_LABEL)), 1 / torch.log1p(tau)
    return (gain.unsqueeze(2) - gain.unsqueeze(1)).abs() * (discount.unsqueeze(2) - discount.unsqueeze(1)).abs()


def lipo(s: Tensor, labels: Tensor) -> Tensor:
    """Return sum_{psi_i > psi_j} lambda_ij softplus(s_j - s_i) with ``lambda_weights``, from scores and labels [N, K]."""
    better = labels.unsqueeze(2) > labels.unsqueeze(1)
    # An impossible answer beside itself is -inf - (-inf).
    gap = torch.where(better, s.unsqueeze(1) - s.unsqueeze(2), 0.0)
    return torch.where(better, lambda_weights(s, labels) * F.softplus(gap), 0.0).sum(dim=(1, 2))


@register("plackett_luce_dpo")
class PlackettLuceDPOLoss(GroupLoss):
    """DPO on a ranking: l = -sum_k [r_(k) - log sum_{j >= k} exp r_(j)], r = beta h, (k) the k-th highest reward.

    Inputs and errors as in ``GroupLoss``; only the order of the rewards matters, and of equal ones the earlier row counts
    as the better. At least 0, log K! at policy = reference; ``dpo`` for two answers. Shifting all r of a group changes
    nothing. r_(k) is pulled up by its own place and pushed down by every place up to it.

    Config: ``group_size`` K (2, at least 2); ``beta`` (0.1, above 0).

    Terms: ``plackett_luce`` of r.

    Source: arXiv 2305.18290, appendix (Plackett-Luce model).
    """

    contract = group_contract(beta=BETA)
    beta = Setting(0.1, above=0.0)

    def terms(self, h: Tensor, rewards: Tensor) -> Tensor:
        return plackett_luce(self.beta * h, rewards)


@register("lipo")
class LiPOLoss(GroupLoss):
    """LiPO-lambda: l = sum over psi_i > psi_j of |2^psi_i - 2^psi_j| |1/log(1+tau_i) - 1/log(1+tau_j)| softplus(s_j - s_i).

    s = beta h, psi = rewards, tau the rank of an answer among the s of its group, 1 for the highest. Inputs and errors as in
    ``GroupLoss``. At least 0; answers of equal reward are not compared. The weights are constant: they receive no gradient,
    and jump where the model's ranking changes. Logarithms are natural; a psi above 60 counts as 60. Two answers are ``dpo``
    times their weight.

    Config: ``group_size`` K (2, at least 2); ``beta`` (0.1, above 0).

    Source: arXiv 2402.01878.
    """

    contract = group_contract(beta=BETA)
    beta = Setting(0.1, above=0.0)

    def terms(self, h: Tensor, rewards: Tensor) -> Tensor:
        return lipo(self.beta * h, rewards)
