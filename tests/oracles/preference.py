"""Preference losses."""

from .counts import Fields, live_tokens, next_token_logprob, pair_count, pair_weights
from .numerics import softplus


def sequence_log_ratio(batch: Fields, outputs: Fields, row: int, average: bool) -> float:
    """h = sum_t tm (lp - lp_ref); with average: h / max(sum_t tm, 1). sample_mask only weighs the pair."""
    total = 0.0
    count = 0.0
    for b, t in live_tokens(batch):
        if b != row:
            continue
        weight = float(batch["token_mask"][b, t + 1])
        policy = next_token_logprob(batch, outputs, b, t)
        reference = float(batch["reference_policy_logprobs"][b, t + 1])
        total += weight * (policy - reference)
        count += weight
    return total / max(count, 1.0) if average else total


def dpo(
    batch: Fields,
    outputs: Fields,
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    average_log_probs: bool = False,
) -> float:
    """dpo, cdpo (label smoothing e), dpo_norm (average): x = beta (h_w - h_l).

    loss = sum_n w_n [-(1-e) log sigma(x_n) - e log sigma(-x_n)] / pairs
    """
    weights = pair_weights(batch, batch["token_mask"].shape[0])
    total = 0.0
    for n, weight in enumerate(weights):
        if weight == 0.0:
            continue
        chosen = sequence_log_ratio(batch, outputs, 2 * n, average_log_probs)
        rejected = sequence_log_ratio(batch, outputs, 2 * n + 1, average_log_probs)
        x = beta * (chosen - rejected)
        total += weight * ((1.0 - label_smoothing) * softplus(-x) + label_smoothing * softplus(x))
    return total / pair_count(batch, weights)
