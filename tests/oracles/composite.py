"""Composites of already computed losses."""

import math
from collections.abc import Sequence


def weighted_sum(losses: Sequence[float], weights: Sequence[float]) -> float:
    """M1 (and M4, with the base loss at weight 1): sum_i w_i L_i; a component of weight 0 is skipped."""
    total = 0.0
    for loss, weight in zip(losses, weights, strict=True):
        if weight != 0.0:
            total += float(weight) * float(loss)
    return total


def dynamic_weights(
    losses: Sequence[float], base_weights: Sequence[float], *, adaptation_rate: float = 0.01, mode: str = "literal"
) -> list[float]:
    """M2, the weights: w = base; for i < n-1: adj = rate (L_i / L_{i+1} - 1); w_i += adj; w_{i+1} -= adj.

    robust: |L_{i+1}| floored at 1e-8 (sign kept, 0 counts as +), then w_i = max(w_i, 0), then w scaled so that
    sum w = sum base (w = base where nothing positive is left).
    """
    if mode not in ("literal", "robust"):
        raise ValueError(f"unknown mode {mode!r}")
    if len(losses) != len(base_weights):
        raise ValueError("losses and base_weights differ in length")
    values = [float(loss) for loss in losses]
    weights = [float(weight) for weight in base_weights]
    for i in range(len(values) - 1):
        denominator = values[i + 1]
        if mode == "robust" and abs(denominator) < 1e-8:
            denominator = -1e-8 if denominator < 0.0 else 1e-8
        adjustment = adaptation_rate * (values[i] / denominator - 1.0)
        weights[i] += adjustment
        weights[i + 1] -= adjustment
    if mode == "literal":
        return weights
    clamped = [max(weight, 0.0) for weight in weights]
    if sum(clamped) == 0.0:
        return [float(weight) for weight in base_weights]
    return [weight * float(sum(base_weights)) / sum(clamped) for weight in clamped]


def dynamic_weight(
    losses: Sequence[float], base_weights: Sequence[float], *, adaptation_rate: float = 0.01, mode: str = "literal"
) -> float:
    """sum_i w_i L_i with the weights of dynamic_weights."""
    return weighted_sum(losses, dynamic_weights(losses, base_weights, adaptation_rate=adaptation_rate, mode=mode))


def adaptive(
    base_value: float,
    *,
    adaptation_rate: float = 0.1,
    target_loss: float = 1.0,
    mode: str = "literal",
    lower: float = 0.0,
    upper: float = math.inf,
) -> float:
    """literal base + rate (base/target - 1); scale base clamp(1 + rate (base/target - 1), lower, upper)."""
    drift = adaptation_rate * (float(base_value) / float(target_loss) - 1.0)
    if mode == "literal":
        return float(base_value) + drift
    if mode == "scale":
        return float(base_value) * min(max(1.0 + drift, lower), upper)
    raise ValueError(f"unknown mode {mode!r}")
