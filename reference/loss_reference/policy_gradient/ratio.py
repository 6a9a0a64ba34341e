"""Probability ratios that stay finite."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from loss_reference.contract import Option

__all__ = ["LOG_RATIO_CLAMP", "MAX_LOG_RATIO", "mean_over_tokens", "probability_ratio", "ratio_of", "straight_through"]

MAX_LOG_RATIO: Final = 70.0
"""Where the exponent of a ratio saturates, in nats: e^70 = 2.5e30 still fits float32 when multiplied and summed.

Ordinary training stays below 20, so this changes nothing there. It is the same in every dtype, and it is applied to the
exponent: clamping e^x itself would leave the gradient inf * 0 = NaN. Beyond it value and gradient are those of a constant.
"""

LOG_RATIO_CLAMP: Final = Option(values=(None, 0.5, 20.0))
"""The values of ``log_ratio_clamp`` worth trying: off, one that acts everywhere, and that of verl and OpenRLHF."""


def probability_ratio(lp: Tensor, lp_old: Tensor, clamp: float | None = None) -> Tensor:
    """Return rho = exp(lp - lp_old), the exponent at most ``MAX_LOG_RATIO``; with ``clamp`` it is kept within +-clamp.

    Beyond the clamp the gradient is 0.
    """
    delta = lp - lp_old
    return ratio_of(delta if clamp is None else delta.clamp(-clamp, clamp))


def ratio_of(log_ratio: Tensor) -> Tensor:
    """Return exp(log_ratio), the exponent at most ``MAX_LOG_RATIO``."""
    return log_ratio.clamp(max=MAX_LOG_RATIO).exp()


def straight_through(x: Tensor) -> Tensor:
    """Return x - sg(x): 0, with the gradient of x; where x is infinite, of a token that cannot be, 0 with none."""
    return torch.where(x.isinf(), 0.0, x - x.detach())


def mean_over_tokens(x: Tensor, m: Tensor) -> Tensor:
    """Return sum_t m x / n_b [B, 1] of x [B, S-1] that is 0 where m is, n_b = sum_t m; 0 for a row without tokens."""
    n = m.sum(dim=1, keepdim=True)
    return (m * x).sum(dim=1, keepdim=True) / n.where(n != 0, 1.0)
