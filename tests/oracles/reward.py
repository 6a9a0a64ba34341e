"""Reward-model losses."""

from .counts import Fields, pair_count, pair_weights
from .numerics import softplus


def bradley_terry(batch: Fields, outputs: Fields) -> float:
    """sum_n w_n (-log sigma(r_w - r_l)) / pairs; rows 0, 2, .. chosen, rows 1, 3, .. rejected."""
    weights = pair_weights(batch, outputs["rewards"].shape[0])
    total = 0.0
    for n, weight in enumerate(weights):
        if weight == 0.0:
            continue
        gap = float(outputs["rewards"][2 * n]) - float(outputs["rewards"][2 * n + 1])
        total += weight * softplus(-gap)
    return total / pair_count(batch, weights)
