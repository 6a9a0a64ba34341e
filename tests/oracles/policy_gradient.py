"""Policy-gradient losses and their KL terms (5.1)."""

import math

from .counts import Fields, TokenTerms, aggregate, live_tokens, next_token_logprob
from .numerics import exp


def ppo_term(ratio: float, advantage: float, clip_min: float, clip_max: float, dual: float | None) -> float:
    """l = max(-A r, -A clip(r, 1-clip_min, 1+clip_max)); ppo_dual_clip: for A < 0, l = min(l, -A dual)."""
    clipped = min(max(ratio, 1.0 - clip_min), 1.0 + clip_max)
    loss = max(-advantage * ratio, -advantage * clipped)
    if dual is not None and advantage < 0.0:
        loss = min(loss, -advantage * dual)
    return loss


def kl_term(d: float, kl_type: str) -> float:
    """K1-K4 with d = lp - lp_ref: k1 = d, k2 = d^2/2, k3 = e^{-d} - 1 + d, abs = |d|."""
    if kl_type == "k1":
        return d
    if kl_type == "k2":
        return 0.5 * d * d
    if kl_type == "k3":
        return (math.expm1(-d) if d > -709.0 else math.inf) + d
    if kl_type == "abs":
        return abs(d)
    raise ValueError(f"unknown kl_type {kl_type!r}")


def ppo_clip(
    batch: Fields,
    outputs: Fields,
    *,
    ratio_clip_min: float = 0.2,
    ratio_clip_max: float = 0.2,
    ratio_clip_c: float | None = None,
    aggregation: str = "token_mean",
    max_length: float | None = None,
) -> float:
    """per token the clipped surrogate of r = exp(lp - lp_old), aggregated."""
    terms: TokenTerms = {}
    for b, t in live_tokens(batch):
        policy = next_token_logprob(batch, outputs, b, t)
        ratio = exp(policy - float(batch["prev_logprobs"][b, t + 1]))
        advantage = float(batch["advantages"][b, t + 1])
        terms[b, t] = ppo_term(ratio, advantage, ratio_clip_min, ratio_clip_max, ratio_clip_c)
    return aggregate(terms, batch, aggregation, max_length)


def grpo(
    batch: Fields,
    outputs: Fields,
    *,
    ratio_clip_min: float = 0.2,
    ratio_clip_max: float = 0.2,
    ratio_clip_c: float | None = None,
    aggregation: str = "seq_mean_token_mean",
    max_length: float | None = None,
    reference_policy_kl_penalty: float = 0.04,
    kl_type: str = "k3",
) -> float:
    """per token ppo_clip (or ppo_dual_clip) + penalty * kl(lp - lp_ref), one aggregation over the sum.

    reference_policy_logprobs is read only where the penalty is not 0.
    """
    terms: TokenTerms = {}
    for b, t in live_tokens(batch):
        policy = next_token_logprob(batch, outputs, b, t)
        ratio = exp(policy - float(batch["prev_logprobs"][b, t + 1]))
        advantage = float(batch["advantages"][b, t + 1])
        value = ppo_term(ratio, advantage, ratio_clip_min, ratio_clip_max, ratio_clip_c)
        if reference_policy_kl_penalty != 0.0:
            d = policy - float(batch["reference_policy_logprobs"][b, t + 1])
            value += reference_policy_kl_penalty * kl_term(d, kl_type)
        terms[b, t] = value
    return aggregate(terms, batch, aggregation, max_length)
