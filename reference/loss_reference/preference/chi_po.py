"""DPO with a chi-squared divergence mixed into the KL: less sure of answers the reference hardly writes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from loss_reference.contract import Option
from loss_reference.preference.dpo import dpo
from loss_reference.preference.f_divergence import LARGEST_EXPONENT
from loss_reference.preference.pairwise import BETA, PairLoss, pair_contract
from loss_reference.registry import register
from loss_reference.settings import Setting
from loss_reference.token_level import refine

__all__ = ["ChiPOLoss", "chi_po"]


def chi_po(
    h_w: Tensor, h_l: Tensor, beta: float = 0.1, log_ratio_limit: float = 20.0, reward_limit: float = 10.0
) -> Tensor:
    """Return -log sigma(clip(beta (u(h_w) - u(h_l)), -2 R, 2 R)), u(h) = exp(min(h, limit)) + h, one term per pair.

    The exponentials are subtracted from each other before the log-ratios are added, which they would swallow.

    Args:
        h_w, h_l: log-ratios of the chosen and of the rejected answer [N], in nats.
        beta: strength of the pull towards the reference, above 0.
        log_ratio_limit: where the exponent of u stops growing, at most 80.
        reward_limit: R above 0, the largest reward there is: two answers are no further apart than 2 R.
    """
    ratios = h_w.clamp(max=log_ratio_limit).exp() - h_l.clamp(max=log_ratio_limit).exp()
    margin = beta * (ratios + (h_w - h_l))
    return dpo(margin.clamp(-2 * reward_limit, 2 * reward_limit), beta=1.0)


@register("chi_po")
class ChiPOLoss(PairLoss):
    """chi-PO: l = -log sigma(clip(beta (u(h_w) - u(h_l)), -2 R, 2 R)), u(h) = exp(min(h, limit)) + h.

    Inputs and errors as in ``PairLoss``. Between softplus(-2 R) and softplus(2 R), log 2 at policy = reference. Not a
    function of h_w - h_l alone: one nat more in both changes it. The gradient carries u'(h) = exp(h) + 1 up to h = limit and
    1 above it, and is 0 where the margin is clipped: also where it is clipped on the wrong side, at
    beta (u(h_w) - u(h_l)) < -2 R.

    Config: ``beta`` (0.1, above 0); ``log_ratio_limit`` (20, at most 80, where exp leaves float32); ``reward_limit`` R (10,
    above 0).

    Source: arXiv 2407.13399.
    """

    contract = pair_contract(
        beta=BETA, log_ratio_limit=Option(values=(1.0, 20.0)), reward_limit=Option(values=(1.0, 10.0))
    )
    beta = Setting(0.1, above=0.0)
    log_ratio_limit = Setting(20.0, most=LARGEST_EXPONENT)
    reward_limit = Setting(10.0, above=0.0)

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        self.contract = refine(
            self.contract, upper_bound=2 * self.reward_limit + math.log1p(math.exp(-2 * self.reward_limit))
        )

    def terms(self, h_w: Tensor, h_l: Tensor, /) -> Tensor:
        return chi_po(h_w, h_l, self.beta, self.log_ratio_limit, self.reward_limit)
