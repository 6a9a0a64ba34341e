"""Probability ratios that stay finite."""

from __future__ import annotations

from typing import Final

from torch import Tensor

__all__ = ["MAX_LOG_RATIO", "probability_ratio"]

MAX_LOG_RATIO: Final = 70.0
"""Where the exponent of a ratio saturates, in nats: e^70 = 2.5e30 still fits float32 when multiplied and summed.

Ordinary training stays below 20, so this changes nothing there. It is the same in every dtype, and it is applied to the
exponent: clamping e^x itself would leave the gradient inf * 0 = NaN. Beyond it value and gradient are those of a constant.
"""


def probability_ratio(lp: Tensor, lp_old: Tensor) -> Tensor:
    """Return rho = exp(lp - lp_old), the exponent at most ``MAX_LOG_RATIO``."""
    return (lp - lp_old).clamp(max=MAX_LOG_RATIO).exp()
