"""f-DPO: the log-ratio of each answer passes through the derivative of another divergence than the reverse KL.

The level of the log-ratios counts, not only their difference: one nat more in both answers of a pair changes the loss, unless
the divergence is the reverse KL.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from loss_reference.contract import Option
from loss_reference.preference.dpo import dpo
from loss_reference.preference.pairwise import BETA, PairLoss, pair_contract
from loss_reference.registry import register
from loss_reference.settings import Setting

__all__ = [
    "LARGEST_EXPONENT",
    "FDPOAlphaLoss",
    "FDPOForwardKLLoss",
    "FDPOJSLoss",
    "alpha_score",
    "fdpo_alpha",
    "fdpo_forward_kl",
    "fdpo_js",
    "forward_kl_score",
    "js_score",
]

LARGEST_EXPONENT: Final = 80.0
"""exp(80) = 5.5e34 is a float32; log-ratios of whole sequences reach further than that."""


def alpha_score(h: Tensor, alpha: float = 0.5) -> Tensor:
    """Return u(h) = (exp((alpha - 1) h) - 1) / (alpha - 1), and its limit h for alpha = 1.

    The -1 cancels between the two answers of a pair and keeps alpha near 1 accurate. The exponent is clamped at 80
    before the exp, so that neither value nor gradient overflows.

    Args:
        h: log-ratios of sequences, in nats.
        alpha: order of the divergence in [0, 1]: 0 is the forward KL, 1 the reverse KL.
    """
    if alpha == 1:
        return h
    return torch.expm1(((alpha - 1) * h).clamp(max=LARGEST_EXPONENT)) / (alpha - 1)


def forward_kl_score(h: Tensor) -> Tensor:
    """Return u(h) = 1 - exp(-h), with the exponent clamped at 80; the 1 cancels between the answers of a pair."""
    return -torch.expm1((-h).clamp(max=LARGEST_EXPONENT))


def js_score(h: Tensor) -> Tensor:
    """Return u(h) = log sigma(h), of the Jensen-Shannon divergence; its log 2 cancels between the answers of a pair."""
    return F.logsigmoid(h)


def fdpo_forward_kl(h_w: Tensor, h_l: Tensor, beta: float = 0.1) -> Tensor:
    """Return -log sigma(beta (exp(-h_l) - exp(-h_w))), one term per pair, from log-ratios [N] in nats; beta above 0."""
    return dpo(forward_kl_score(h_w) - forward_kl_score(h_l), beta)


def fdpo_js(h_w: Tensor, h_l: Tensor, beta: float = 0.1) -> Tensor:
    """Return -log sigma(beta (log sigma(h_w) - log sigma(h_l))), one term per pair, from log-ratios [N]; beta above 0."""
    return dpo(js_score(h_w) - js_score(h_l), beta)


def fdpo_alpha(h_w: Tensor, h_l: Tensor, beta: float = 0.1, alpha: float = 0.5) -> Tensor:
    """Return -log sigma(beta (u(h_w) - u(h_l))), u(h) = exp((alpha - 1) h) / (alpha - 1), one term per pair.

    Args:
        h_w, h_l: log-ratios of the chosen and of the rejected answer [N], in nats.
        beta: strength of the pull towards the reference, above 0.
        alpha: order of the divergence, see ``alpha_score``.
    """
    return dpo(alpha_score(h_w, alpha) - alpha_score(h_l, alpha), beta)


@register("fdpo_forward_kl")
class FDPOForwardKLLoss(PairLoss):
    """f-DPO with the forward KL: l = -log sigma(beta (u(h_w) - u(h_l))), u(h) = -exp(-h).

    Inputs and errors as in ``PairLoss``. At least 0, log 2 at policy = reference. The gradient carries u'(h) = exp(-h):
    answers that the policy has abandoned weigh most, up to h = -80, from where u is constant and u' is 0.

    Config: ``beta`` (0.1, above 0).

    Source: arXiv 2309.16240.
    """

    contract = pair_contract(beta=BETA)
    beta = Setting(0.1, above=0.0)

    def terms(self, h_w: Tensor, h_l: Tensor, /) -> Tensor:
        return fdpo_forward_kl(h_w, h_l, self.beta)


@register("fdpo_js")
class FDPOJSLoss(PairLoss):
    """f-DPO with the Jensen-Shannon divergence: l = -log sigma(beta (u(h_w) - u(h_l))), u(h) = log sigma(h).

    Inputs and errors as in ``PairLoss``. At least 0, log 2 at policy = reference. The gradient carries
    u'(h) = sigma(-h): answers that the policy already favours weigh least.

    Config: ``beta`` (0.1, above 0).

    Source: arXiv 2309.16240.
    """

    contract = pair_contract(beta=BETA)
    beta = Setting(0.1, above=0.0)

    def terms(self, h_w: Tensor, h_l: Tensor, /) -> Tensor:
        return fdpo_js(h_w, h_l, self.beta)


@register("fdpo_alpha")
class FDPOAlphaLoss(PairLoss):
    """f-DPO with an alpha-divergence: l = -log sigma(beta (u(h_w) - u(h_l))), u(h) = exp((a - 1) h) / (a - 1).

    Inputs and errors as in ``PairLoss``. At least 0, log 2 at policy = reference; a = 0 is ``fdpo_forward_kl`` and a = 1
    is ``dpo``. The gradient carries u'(h) = exp((a - 1) h), 0 where that exponent is above 80.

    Config: ``beta`` (0.1, above 0); ``alpha`` a (0.5, from 0 to 1; TRL ``f_alpha_divergence_coef``).

    Source: arXiv 2309.16240.
    """

    contract = pair_contract(
        beta=BETA, alpha=Option(values=(0.0, 0.5, 1.0), reduces_to={0.0: "fdpo_forward_kl", 1.0: "dpo"})
    )
    beta = Setting(0.1, above=0.0)
    alpha = Setting(0.5, least=0.0, most=1.0)

    def terms(self, h_w: Tensor, h_l: Tensor, /) -> Tensor:
        return fdpo_alpha(h_w, h_l, self.beta, self.alpha)
