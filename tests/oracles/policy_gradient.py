"""Policy-gradient losses and their KL terms (5.1)."""

import math

from .counts import Fields, TokenTerms, aggregate, live_tokens, next_token_logprob
from .numerics import exp


def clamped(x: float, bound: float | None) -> float:
    """clamp(x, -bound, bound); x itself where bound is None."""
    return x if bound is None else min(max(x, -bound), bound)


def ppo_term(
    ratio: float,
    advantage: float,
    clip_min: float,
    clip_max: float,
    dual: float | None,
    bounds: str = "negative_advantages",
) -> float:
    """l = max(-A r, -A clip(r, 1-clip_min, 1+clip_max)); ppo_dual_clip: for A < 0, l = min(l, -A dual).

    With bounds "ratio", dual bounds the r of the first branch instead, whatever the sign of A.
    """
    clipped = min(max(ratio, 1.0 - clip_min), 1.0 + clip_max)
    if bounds == "ratio" and dual is not None:
        return max(-advantage * min(ratio, dual), -advantage * clipped)
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
    clip_c_bounds: str = "negative_advantages",
    log_ratio_clamp: float | None = None,
    aggregation: str = "token_mean",
    max_length: float | None = None,
) -> float:
    """per token the clipped surrogate of r = exp(clamp(lp - lp_old, log_ratio_clamp)), aggregated."""
    terms: TokenTerms = {}
    for b, t in live_tokens(batch):
        policy = next_token_logprob(batch, outputs, b, t)
        ratio = exp(clamped(policy - float(batch["prev_logprobs"][b, t + 1]), log_ratio_clamp))
        advantage = float(batch["advantages"][b, t + 1])
        terms[b, t] = ppo_term(ratio, advantage, ratio_clip_min, ratio_clip_max, ratio_clip_c, clip_c_bounds)
    return aggregate(terms, batch, aggregation, max_length)


def grpo(
    batch: Fields,
    outputs: Fields,
    *,
    ratio_clip_min: float = 0.2,
    ratio_clip_max: float = 0.2,
    ratio_clip_c: float | None = None,
    log_ratio_clamp: float | None = None,
    aggregation: str = "seq_mean_token_mean",
    max_length: float | None = None,
    reference_policy_kl_penalty: float = 0.04,
    kl_type: str = "k3",
    kl_input_clamp: float | None = None,
    kl_output_clamp: float | None = None,
) -> float:
    """per token ppo_clip (or ppo_dual_clip) + penalty * kl(lp - lp_ref), one aggregation over the sum.

    kl_input_clamp is on lp - lp_ref, kl_output_clamp on the estimate. reference_policy_logprobs is read only where the
    penalty is not 0.
    """
    terms: TokenTerms = {}
    for b, t in live_tokens(batch):
        policy = next_token_logprob(batch, outputs, b, t)
        ratio = exp(clamped(policy - float(batch["prev_logprobs"][b, t + 1]), log_ratio_clamp))
        advantage = float(batch["advantages"][b, t + 1])
        value = ppo_term(ratio, advantage, ratio_clip_min, ratio_clip_max, ratio_clip_c)
        if reference_policy_kl_penalty != 0.0:
            d = policy - float(batch["reference_policy_logprobs"][b, t + 1])
            estimate = clamped(kl_term(clamped(d, kl_input_clamp), kl_type), kl_output_clamp)
            value += reference_policy_kl_penalty * estimate
        terms[b, t] = value
    return aggregate(terms, batch, aggregation, max_length)
