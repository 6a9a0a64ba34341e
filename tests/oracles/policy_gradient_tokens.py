"""More policy-gradient losses with one ratio per token.

lp of the outputs, r = exp(lp - lp_old), A = advantages. A `<name>_gradient` gives d loss / d lp as [B, S-1]: the
entry's per-token derivative times the token's share in the aggregation, 0 elsewhere.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .counts import (
    Fields,
    TokenTerms,
    aggregate,
    live_tokens,
    next_token_logprob,
    row_weight,
    sequence_count,
    token_count,
)
from .numerics import exp, softplus
from .policy_gradient import clamped, ppo_clip
from .preference_terms import sigmoid, trained_tokens

TokenFunction = Callable[[float, float, float], float]  # (lp, delta, A) -> per-token value


def advantage_at(batch: Fields, b: int, t: int) -> float:
    """A of token t+1."""
    return float(batch["advantages"][b, t + 1])


def delta_at(batch: Fields, outputs: Fields, b: int, t: int) -> float:
    """lp - lp_old of token t+1."""
    return next_token_logprob(batch, outputs, b, t) - float(batch["prev_logprobs"][b, t + 1])


def token_terms(batch: Fields, outputs: Fields, function: TokenFunction) -> TokenTerms:
    """function(lp, lp - lp_old, A) at every live token."""
    terms: TokenTerms = {}
    for b, t in live_tokens(batch):
        policy = next_token_logprob(batch, outputs, b, t)
        terms[b, t] = function(policy, delta_at(batch, outputs, b, t), advantage_at(batch, b, t))
    return terms


def spread(terms: TokenTerms, batch: Fields, aggregation: str, max_length: float | None) -> NDArray[Any]:
    """d aggregate / d lp, [B, S-1], from the per-token derivatives (each term depends on its own lp alone)."""
    rows, width = batch["token_mask"].shape
    gradient = np.zeros((rows, width - 1))
    for (b, t), value in terms.items():
        share = row_weight(batch, b) * float(batch["token_mask"][b, t + 1])
        if aggregation == "token_mean":
            share /= token_count(batch)
        elif aggregation == "seq_mean_token_mean":
            share /= max(trained_tokens(batch, b), 1.0) * sequence_count(batch, rows)
        elif aggregation == "seq_mean_token_sum":
            share /= sequence_count(batch, rows)
        elif aggregation == "fixed" and max_length is not None:
            share /= sequence_count(batch, rows) * max_length
        else:
            raise ValueError(f"unknown aggregation {aggregation!r}, or no max_length")
        gradient[b, t] = share * value
    return gradient


def reinforce(
    batch: Fields, outputs: Fields, *, aggregation: str = "token_mean", max_length: float | None = None
) -> float:
    """l = -A lp. No prev_logprobs."""
    terms: TokenTerms = {}
    for b, t in live_tokens(batch):
        terms[b, t] = -advantage_at(batch, b, t) * next_token_logprob(batch, outputs, b, t)
    return aggregate(terms, batch, aggregation, max_length)


def on_policy(
    batch: Fields, outputs: Fields, *, aggregation: str = "token_mean", max_length: float | None = None
) -> float:
    """ratio exp(lp - sg(lp)) = 1, so l = -A. No prev_logprobs."""
    terms = {(b, t): -advantage_at(batch, b, t) for b, t in live_tokens(batch)}
    return aggregate(terms, batch, aggregation, max_length)


def on_policy_gradient(
    batch: Fields, outputs: Fields, *, aggregation: str = "token_mean", max_length: float | None = None
) -> NDArray[Any]:
    """dl/dlp = -A."""
    terms = {(b, t): -advantage_at(batch, b, t) for b, t in live_tokens(batch)}
    return spread(terms, batch, aggregation, max_length)


def dual_clip(batch: Fields, outputs: Fields, *, ratio_clip_c: float = 3.0, **shared: Any) -> float:
    """ppo_clip, and where A < 0: min(ppo_clip, -A c); settings of ppo_clip."""
    return ppo_clip(batch, outputs, ratio_clip_c=ratio_clip_c, **shared)


def dapo(batch: Fields, outputs: Fields, *, ratio_clip_max: float = 0.28, **shared: Any) -> float:
    """ppo_clip by token_mean, clip [0.8, 1.28], no KL."""
    return ppo_clip(batch, outputs, ratio_clip_max=ratio_clip_max, **shared)


def dr_grpo(
    batch: Fields, outputs: Fields, *, max_length: float, divisor: str = "sequences_times_length", **shared: Any
) -> float:
    """sum m ppo_clip / (S_g max_length), or without S_g where the divisor is "length"."""
    value = ppo_clip(batch, outputs, aggregation="fixed", max_length=max_length, **shared)
    if divisor == "length":
        return value * sequence_count(batch, batch["token_mask"].shape[0])
    if divisor != "sequences_times_length":
        raise ValueError(f"unknown divisor {divisor!r}")
    return value


def bnpo(batch: Fields, outputs: Fields, **shared: Any) -> float:
    """sum m ppo_clip / max(sum m, 1) over this batch, whatever the global counts say."""
    own = {name: value for name, value in batch.items() if name not in ("global_valid_toks", "global_valid_seqs")}
    return ppo_clip(own, outputs, **shared)


def clipped_weight(
    delta: float,
    *,
    ratio_clip_min: float = 0.2,
    ratio_clip_max: float = 0.2,
    weight_bound: str = "relative",
    log_ratio_clamp: float | None = None,
) -> float:
    """w of r = exp(clamp(delta, log_ratio_clamp)).

    relative  clip(r, 1 - ratio_clip_min, 1 + ratio_clip_max)
    absolute  min(r, ratio_clip_max)
    upper     min(r, 1 + ratio_clip_max)
    """
    r = exp(clamped(delta, log_ratio_clamp))
    bounds = {
        "relative": (1.0 - ratio_clip_min, 1.0 + ratio_clip_max),
        "absolute": (0.0, ratio_clip_max),
        "upper": (0.0, 1.0 + ratio_clip_max),
    }
    low, high = bounds[weight_bound]
    return min(max(r, low), high)


def cispo(
    batch: Fields, outputs: Fields, *, aggregation: str = "token_mean", max_length: float | None = None, **weight: Any
) -> float:
    """l = -sg(w) A lp, w the clipped_weight of its settings."""
    terms = token_terms(batch, outputs, lambda lp, delta, a: -clipped_weight(delta, **weight) * a * lp)
    return aggregate(terms, batch, aggregation, max_length)


def cispo_gradient(
    batch: Fields, outputs: Fields, *, aggregation: str = "token_mean", max_length: float | None = None, **weight: Any
) -> NDArray[Any]:
    """dl/dlp = -w A, at every token."""
    terms = token_terms(batch, outputs, lambda _, delta, a: -clipped_weight(delta, **weight) * a)
    return spread(terms, batch, aggregation, max_length)


def sapo(
    batch: Fields,
    outputs: Fields,
    *,
    tau_pos: float = 1.0,
    tau_neg: float = 1.05,
    log_ratio_clamp: float | None = None,
    aggregation: str = "seq_mean_token_mean",
    max_length: float | None = None,
) -> float:
    """l = -A (4/tau) sigma(tau (r - 1)), aggregated; tau = tau_pos where A > 0, else tau_neg.

    r = exp(clamp(lp - lp_old, log_ratio_clamp)).
    """

    def term(_: float, delta: float, a: float) -> float:
        tau = tau_pos if a > 0.0 else tau_neg
        return -a * (4.0 / tau) * sigmoid(tau * (exp(clamped(delta, log_ratio_clamp)) - 1.0))

    return aggregate(token_terms(batch, outputs, term), batch, aggregation, max_length)


def sapo_gradient(
    batch: Fields,
    outputs: Fields,
    *,
    tau_pos: float = 1.0,
    tau_neg: float = 1.05,
    log_ratio_clamp: float | None = None,
    aggregation: str = "seq_mean_token_mean",
    max_length: float | None = None,
) -> NDArray[Any]:
    """dl/dlp = -A r 4 s (1 - s), s = sigma(tau (r - 1)); 0 where lp - lp_old is beyond log_ratio_clamp."""

    def slope(_: float, delta: float, a: float) -> float:
        if clamped(delta, log_ratio_clamp) != delta:
            return 0.0
        z = (tau_pos if a > 0.0 else tau_neg) * (exp(delta) - 1.0)
        return -a * 4.0 * exp(delta - softplus(-z) - softplus(z))

    return spread(token_terms(batch, outputs, slope), batch, aggregation, max_length)
