"""Noise-contrastive alignment of K answers to the rewards they were given."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from loss_reference.contract import Option
from loss_reference.log_sums import logsumexp_where, sole_infinite
from loss_reference.preference.groupwise import GroupLoss, group_contract
from loss_reference.preference.pairwise import BETA
from loss_reference.reduction import keep_active
from loss_reference.registry import register
from loss_reference.settings import Setting

__all__ = ["InfoNCALoss", "infonca", "nca"]


def infonca(r: Tensor, target: Tensor) -> Tensor:
    """Return -sum_k target_k log softmax(r)_k, one term per group, from r = beta h and a distribution, both [N, K].

    0 log 0 is 0: an impossible answer that nothing is wanted of costs nothing. One r of inf has the whole softmax.
    """
    every = torch.ones_like(r, dtype=torch.bool)
    certain = (r == torch.inf) & sole_infinite(r, every).unsqueeze(1)
    log_softmax = torch.where(certain, 0.0, r - logsumexp_where(r, every).unsqueeze(1))
    return -(target * keep_active(log_softmax, target)).sum(dim=1)


def nca(r: Tensor, target: Tensor) -> Tensor:
    """Return -sum_k [target_k log sigma(r_k) + log sigma(-r_k) / K], one term per group, from r = beta h, both [N, K]."""
    return -(target * keep_active(F.logsigmoid(r), target) + F.logsigmoid(-r) / r.shape[1]).sum(dim=1)


@register("infonca")
class InfoNCALoss(GroupLoss):
    """InfoNCA: l = -sum_k target_k log softmax(r)_k, target = softmax(rewards / alpha) over K answers, r = beta h.

    Inputs and errors as in ``GroupLoss``. At least the entropy of the target, reached where softmax(r) is the target;
    log K at policy = reference. dl/dr_k = softmax(r)_k - target_k. Shifting all r of a group changes nothing. Two answers,
    one of which takes the whole target, are ``dpo``.

    Config: ``group_size`` K (2, at least 2); ``beta`` (0.1, above 0); ``alpha`` (1.0, above 0), the temperature of the
    rewards; ``variant`` (``"infonca"``; ``"nca"``: l = -sum_k [target_k log sigma(r_k) + log sigma(-r_k) / K], which anchors
    each r by itself: 2 log 2 at policy = reference, ``nca_pair`` for two answers one of which takes the whole target).

    Source: arXiv 2402.05369.
    """

    contract = group_contract(beta=BETA, alpha=Option(values=(0.5, 1.0)), variant=Option(values=("infonca", "nca")))
    beta = Setting(0.1, above=0.0)
    alpha = Setting(1.0, above=0.0)
    variant = Setting("infonca", choices=("infonca", "nca"))

    def terms(self, h: Tensor, rewards: Tensor) -> Tensor:
        target = (rewards / self.alpha).softmax(dim=1)
        return (infonca if self.variant == "infonca" else nca)(self.beta * h, target)
