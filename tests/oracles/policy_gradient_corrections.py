"""Corrections for a behaviour policy that is not the old one (tis-divergence_mask): ppo_clip's terms times a constant weight W.

g = lp_old - lp_gen of a token (lp_gen = generation_logprobs), W0 = e^g; sums and means over the row's trained tokens.
The losses take the settings of `corrected` besides their own; those whose W is an importance weight, not a choice of what is
kept, those of `importance_weighted`.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .counts import Fields, TokenTerms, aggregate, live_tokens, next_token_logprob, row_weight
from .numerics import exp
from .policy_gradient import clamped, kl_term, ppo_term
from .policy_gradient_sequences import mean_log_ratios
from .policy_gradient_tokens import advantage_at, delta_at

Weight = Callable[[int, int], float]  # (b, t) -> W


def generation_gap(batch: Fields, b: int, t: int) -> float:
    """g of token t+1."""
    return float(batch["prev_logprobs"][b, t + 1]) - float(batch["generation_logprobs"][b, t + 1])


def row_gaps(batch: Fields, row: int) -> list[float]:
    """g of the row's trained tokens."""
    return [generation_gap(batch, b, t) for b, t in live_tokens(batch) if b == row]


def inside(x: float, low: float, high: float) -> bool:
    """low <= x <= high."""
    return low <= x <= high


def corrected(
    batch: Fields,
    outputs: Fields,
    weight: Weight,
    *,
    ratio_clip_min: float = 0.2,
    ratio_clip_max: float = 0.2,
    ratio_clip_c: float | None = None,
    log_ratio_clamp: float | None = None,
    ratio_level: str = "token",
    aggregation: str = "token_mean",
    max_length: float | None = None,
) -> float:
    """W max(-A r, -A clip(r)) aggregated, as in ppo_clip; a weight of 0 gives exactly 0.

    r is the token's own (token), or the row's as in gspo (sequence), its logarithm within log_ratio_clamp.
    """
    if ratio_level not in ("token", "sequence"):
        raise ValueError(f"unknown ratio_level {ratio_level!r}")
    means = mean_log_ratios(batch, outputs)
    terms: TokenTerms = {}
    for b, t in live_tokens(batch):
        w = weight(b, t)
        delta = means[b] if ratio_level == "sequence" else delta_at(batch, outputs, b, t)
        ratio = exp(clamped(delta, log_ratio_clamp))
        term = ppo_term(ratio, advantage_at(batch, b, t), ratio_clip_min, ratio_clip_max, ratio_clip_c)
        terms[b, t] = w * term if w != 0.0 else 0.0
    return aggregate(terms, batch, aggregation, max_length)


def normalized(batch: Fields, weight: Weight, over: str) -> Weight:
    """weight over its mean, which is taken over the trained tokens or over the rows that have some.

    tokens  sum_bt m_bt W_bt / sum_bt m_bt
    rows    sum_b s_b W_b / sum_b s_b
    A mean of 1e-8 or less is left out.
    """
    pairs = []
    if over == "tokens":
        for b, t in live_tokens(batch):
            pairs.append((float(batch["token_mask"][b, t + 1]) * row_weight(batch, b), weight(b, t)))
    else:
        for b, t in {b: (b, t) for b, t in live_tokens(batch)}.values():
            pairs.append((row_weight(batch, b), weight(b, t)))
    total = sum(share for share, _ in pairs)
    mean = sum(share * w for share, w in pairs) / total if total != 0.0 else 0.0
    return (lambda b, t: weight(b, t) / mean) if mean > 1e-8 else weight


def importance_weighted(
    batch: Fields, outputs: Fields, weight: Weight, over: str, *, batch_normalize: bool = False, **shared: Any
) -> float:
    """corrected with weight, or with normalized weight where batch_normalize."""
    return corrected(batch, outputs, normalized(batch, weight, over) if batch_normalize else weight, **shared)


def tis(
    batch: Fields,
    outputs: Fields,
    *,
    is_min: float = 0.0,
    is_max: float = 2.0,
    overflow: str = "saturate",
    **shared: Any,
) -> float:
    """W = clamp(W0, is_min, is_max); with overflow "zero", a W0 beyond float32 is 0 first."""
    if overflow not in ("saturate", "zero"):
        raise ValueError(f"unknown overflow {overflow!r}")

    def weight(b: int, t: int) -> float:
        w = exp(generation_gap(batch, b, t))
        if overflow == "zero" and w > float(np.finfo(np.float32).max):
            w = 0.0
        return min(max(w, is_min), is_max)

    return importance_weighted(batch, outputs, weight, "tokens", **shared)


def icepop(batch: Fields, outputs: Fields, *, is_min: float = 0.5, is_max: float = 2.0, **shared: Any) -> float:
    """W = W0 where is_min <= W0 <= is_max, else 0."""

    def weight(b: int, t: int) -> float:
        w = exp(generation_gap(batch, b, t))
        return w if inside(w, is_min, is_max) else 0.0

    return importance_weighted(batch, outputs, weight, "tokens", **shared)


def seq_truncate(batch: Fields, outputs: Fields, *, is_max: float = 3.0, **shared: Any) -> float:
    """W = min(e^{sum g}, is_max) of the row."""

    def weight(b: int, _: int) -> float:
        return min(exp(sum(row_gaps(batch, b))), is_max)

    return importance_weighted(batch, outputs, weight, "rows", **shared)


def seq_mask(batch: Fields, outputs: Fields, *, is_min: float = 0.0, is_max: float = 3.0, **shared: Any) -> float:
    """W = e^{sum g} where is_min <= e^{sum g} <= is_max, else 0, for the whole row."""

    def weight(b: int, _: int) -> float:
        w = exp(sum(row_gaps(batch, b)))
        return w if inside(w, is_min, is_max) else 0.0

    return importance_weighted(batch, outputs, weight, "rows", **shared)


def seq_mask_tis(batch: Fields, outputs: Fields, *, is_min: float = 0.5, is_max: float = 2.0, **shared: Any) -> float:
    """W = the token's W0, untruncated, where the row has is_min <= e^{mean g} <= is_max, else 0."""

    def weight(b: int, t: int) -> float:
        gaps = row_gaps(batch, b)
        kept = inside(exp(sum(gaps) / len(gaps)), is_min, is_max)
        return exp(generation_gap(batch, b, t)) if kept else 0.0

    return importance_weighted(batch, outputs, weight, "tokens", **shared)


def off_policy_mask(batch: Fields, outputs: Fields, *, threshold: float = 0.1, **shared: Any) -> float:
    """W = 0 at tokens of A < 0 in rows with mean (lp_gen - lp) > threshold, else 1."""

    def weight(row: int, t: int) -> float:
        drift = []
        for b, u in live_tokens(batch):
            if b == row:
                drift.append(float(batch["generation_logprobs"][b, u + 1]) - next_token_logprob(batch, outputs, b, u))
        dropped = advantage_at(batch, row, t) < 0.0 and sum(drift) / len(drift) > threshold
        return 0.0 if dropped else 1.0

    return corrected(batch, outputs, weight, **shared)


def divergence_mask(
    batch: Fields,
    outputs: Fields,
    *,
    estimator: str = "k1",
    level: str = "token",
    upper: float = 2.0,
    lower: float | None = None,
    **shared: Any,
) -> float:
    """W = 1 where kept, else 0.

    k1  lower <= e^x <= upper, x of g; lower is 1 / upper where None
    k2  x <= upper, x of g^2 / 2
    k3  x <= upper, x of e^g - 1 - g
    x is the token's own (token), or the row's mean, sum or (k2, k3) maximum (seq_mean, seq_sum, seq_max).
    """
    if estimator not in ("k1", "k2", "k3"):
        raise ValueError(f"unknown estimator {estimator!r}")
    if level not in ("token", "seq_mean", "seq_sum", "seq_max"):
        raise ValueError(f"unknown level {level!r}")
    if estimator == "k1" and level == "seq_max":
        raise ValueError("estimator 'k1' has no level 'seq_max'")

    def weight(b: int, t: int) -> float:
        gaps = [generation_gap(batch, b, t)] if level == "token" else row_gaps(batch, b)
        # kl_term speaks of d = -g: k1 is then -g, k2 and k3 are as above.
        values = [gap if estimator == "k1" else kl_term(-gap, estimator) for gap in gaps]
        if level == "seq_max":
            x = max(values)
        elif level == "seq_mean":
            x = sum(values) / len(values)
        else:
            x = sum(values)
        if estimator == "k1":
            return 1.0 if inside(exp(x), 1.0 / upper if lower is None else lower, upper) else 0.0
        return 1.0 if inside(x, -math.inf, upper) else 0.0

    return corrected(batch, outputs, weight, **shared)
