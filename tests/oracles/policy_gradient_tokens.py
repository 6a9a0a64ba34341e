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
from .policy_gradient import ppo_clip
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


def dual_clip(
    batch: Fields,
    outputs: Fields,
    *,
    ratio_clip_min: float = 0.2,
    ratio_clip_max: float = 0.2,
    ratio_clip_c: float = 3.0,
    aggregation: str = "token_mean",
    max_length: float | None = None,
) -> float:
    """ppo_clip, and where A < 0: min(ppo_clip, -A c)."""
    return ppo_clip(
        batch,
        outputs,
        ratio_clip_min=ratio_clip_min,
        ratio_clip_max=ratio_clip_max,
        ratio_clip_c=ratio_clip_c,
        aggregation=aggregation,
        max_length=max_length,
    )


def dapo(batch: Fields, outputs: Fields, *, ratio_clip_min: float = 0.2, ratio_clip_max: float = 0.28) -> float:
    """ppo_clip by token_mean, clip [0.8, 1.28], no KL."""
    return ppo_clip(batch, outputs, ratio_clip_min=ratio_clip_min, ratio_clip_max=ratio_clip_max)


def dr_grpo(
    batch: Fields, outputs: Fields, *, max_length: float, ratio_clip_min: float = 0.2, ratio_clip_max: float = 0.2
) -> float:
    """sum m ppo_clip / (S_g max_length)."""
    return ppo_clip(
        batch,
        outputs,
        ratio_clip_min=ratio_clip_min,
        ratio_clip_max=ratio_clip_max,
        aggregation="fixed",
        max_length=max_length,
    )


def bnpo(batch: Fields, outputs: Fields, *, ratio_clip_min: float = 0.2, ratio_clip_max: float = 0.2) -> float:
    """sum m ppo_clip / max(sum m, 1) over this batch, whatever the global counts say."""
    own = {name: value for name, value in batch.items() if name not in ("global_valid_toks", "global_valid_seqs")}
    return ppo_clip(own, outputs, ratio_clip_min=ratio_clip_min, ratio_clip_max=ratio_clip_max)


def clipped_weight(delta: float, clip_min: float, clip_max: float) -> float:
    """clip(e^delta, 1 - clip_min, 1 + clip_max)."""
    return min(max(exp(delta), 1.0 - clip_min), 1.0 + clip_max)


def cispo(batch: Fields, outputs: Fields, *, ratio_clip_min: float = 0.2, ratio_clip_max: float = 0.2) -> float:
    """l = -sg(w) A lp by token_mean, w = clip(r, 1 - clip_min, 1 + clip_max)."""
    terms = token_terms(
        batch, outputs, lambda lp, delta, a: -clipped_weight(delta, ratio_clip_min, ratio_clip_max) * a * lp
    )
    return aggregate(terms, batch, "token_mean", None)


def cispo_gradient(
    batch: Fields, outputs: Fields, *, ratio_clip_min: float = 0.2, ratio_clip_max: float = 0.2
) -> NDArray[Any]:
    """dl/dlp = -w A, at every token."""
    terms = token_terms(batch, outputs, lambda _, delta, a: -clipped_weight(delta, ratio_clip_min, ratio_clip_max) * a)
    return spread(terms, batch, "token_mean", None)


def sapo(batch: Fields, outputs: Fields, *, tau_pos: float = 1.0, tau_neg: float = 1.05) -> float:
    """l = -A (4/tau) sigma(tau (r - 1)) by seq_mean_token_mean; tau = tau_pos where A > 0, else tau_neg."""

    def term(_: float, delta: float, a: float) -> float:
        tau = tau_pos if a > 0.0 else tau_neg
        return -a * (4.0 / tau) * sigmoid(tau * (exp(delta) - 1.0))

    return aggregate(token_terms(batch, outputs, term), batch, "seq_mean_token_mean", None)


def sapo_gradient(batch: Fields, outputs: Fields, *, tau_pos: float = 1.0, tau_neg: float = 1.05) -> NDArray[Any]:
    """dl/dlp = -A r 4 s (1 - s), s = sigma(tau (r - 1))."""

    def slope(_: float, delta: float, a: float) -> float:
        z = (tau_pos if a > 0.0 else tau_neg) * (exp(delta) - 1.0)
        return -a * 4.0 * exp(delta - softplus(-z) - softplus(z))

    return spread(token_terms(batch, outputs, slope), batch, "seq_mean_token_mean", None)
