"""Scalar float64 numerics used by the oracles."""

import math
from collections.abc import Sequence


def exp(x: float) -> float:
    """e^x, and inf where that overflows float64."""
    return math.inf if x > 709.0 else math.exp(x)


def logsumexp(xs: Sequence[float]) -> float:
    """log(sum_i e^{x_i}); entries of -inf add exactly nothing."""
    top = max(xs)
    if math.isinf(top):
        return top
    return top + math.log(sum(math.exp(x - top) for x in xs))


def log_softmax(xs: Sequence[float]) -> list[float]:
    """x_i - log(sum_j e^{x_j})."""
    total = logsumexp(xs)
    return [x - total for x in xs]


def softplus(x: float) -> float:
    """log(1 + e^x) = -log sigma(-x)."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))
