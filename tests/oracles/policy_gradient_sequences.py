"""Policy-gradient losses with one ratio per sequence: gspo, gspo_token, luspo, vespo, gmpo.

delta = lp - lp_old, n = sum_t tm of the row (at least 1 as a divisor); sample_mask weighs the row, no more.
"""

import math
from typing import Any

from numpy.typing import NDArray

from .counts import (
    Fields,
    TokenTerms,
    aggregate,
    live_tokens,
    next_token_logprob,
    row_weight,
    sequence_count,
    whole_answers,
)
from .numerics import exp
from .policy_gradient import kl_term, ppo_term
from .policy_gradient_tokens import advantage_at, delta_at, spread
from .preference_terms import trained_tokens


def summed_log_ratios(batch: Fields, outputs: Fields, bound: float = math.inf) -> list[float]:
    """sum_t tm clamp(delta, -bound, bound) of every row."""
    sums = [0.0] * batch["token_mask"].shape[0]
    for b, t in live_tokens(batch):
        delta = min(max(delta_at(batch, outputs, b, t), -bound), bound)
        sums[b] += float(batch["token_mask"][b, t + 1]) * delta
    return sums


def mean_log_ratios(batch: Fields, outputs: Fields) -> list[float]:
    """log s = sum_t tm delta / n of every row."""
    sums = summed_log_ratios(batch, outputs)
    return [total / max(trained_tokens(batch, b), 1.0) for b, total in enumerate(sums)]


def sequence_ratios(batch: Fields, outputs: Fields, log_ratio_max: float | None = None) -> list[float]:
    """s of every row, log s at most log_ratio_max."""
    highest = math.inf if log_ratio_max is None else log_ratio_max
    return [exp(min(mean, highest)) for mean in mean_log_ratios(batch, outputs)]


def gspo_terms(
    batch: Fields, outputs: Fields, clip_min: float, clip_max: float, log_ratio_max: float | None
) -> TokenTerms:
    """max(-A_t s, -A_t clip(s, 1 - clip_min, 1 + clip_max)) at every live token."""
    terms: TokenTerms = {}
    ratios = sequence_ratios(batch, outputs, log_ratio_max)
    for b, t in live_tokens(batch):
        terms[b, t] = ppo_term(ratios[b], advantage_at(batch, b, t), clip_min, clip_max, None)
    return terms


def gspo(
    batch: Fields,
    outputs: Fields,
    *,
    ratio_clip_min: float = 3e-4,
    ratio_clip_max: float = 4e-4,
    log_ratio_max: float | None = None,
    aggregation: str = "seq_mean_token_mean",
    max_length: float | None = None,
) -> float:
    """l_t = max(-A_t s, -A_t clip(s)), s = exp(min(sum_t tm delta / n, log_ratio_max))."""
    terms = gspo_terms(batch, outputs, ratio_clip_min, ratio_clip_max, log_ratio_max)
    return aggregate(terms, batch, aggregation, max_length)


def gspo_token(batch: Fields, outputs: Fields, **settings: Any) -> float:
    """log s_t = sg(log s) + lp - sg(lp): the value of gspo."""
    return gspo(batch, outputs, **settings)


def gspo_token_gradient(
    batch: Fields,
    outputs: Fields,
    *,
    ratio_clip_min: float = 3e-4,
    ratio_clip_max: float = 4e-4,
    log_ratio_max: float | None = None,
    aggregation: str = "seq_mean_token_mean",
    max_length: float | None = None,
) -> NDArray[Any]:
    """dl_t/dlp_t = -A_t s; 0 where A_t > 0 and s > 1 + clip_max, or A_t < 0 and s < 1 - clip_min, or log s is bounded."""
    terms: TokenTerms = {}
    ratios = sequence_ratios(batch, outputs)
    highest = math.inf if log_ratio_max is None else exp(log_ratio_max)
    for b, t in live_tokens(batch):
        s = ratios[b]
        a = advantage_at(batch, b, t)
        clipped = (a > 0.0 and s > 1.0 + ratio_clip_max) or (a < 0.0 and s < 1.0 - ratio_clip_min)
        terms[b, t] = 0.0 if clipped or s > highest else -a * s
    return spread(terms, batch, aggregation, max_length)


def luspo(
    batch: Fields,
    outputs: Fields,
    *,
    reference_policy_kl_penalty: float = 0.0,
    padding: str = "ignored",
    **settings: Any,
) -> float:
    """gspo's term times n_b, mean over sequences: the per-token terms by seq_mean_token_sum.

    Plus the penalty times sum_b s_b sum_t tm k3 / S_g; with padding counted n_b times the mean of k3 over the row of
    whole_answers stands for the sum of a row.
    """
    if padding not in ("ignored", "counted"):
        raise ValueError(f"unknown padding {padding!r}")
    value = gspo(batch, outputs, aggregation="seq_mean_token_sum", **settings)
    if reference_policy_kl_penalty == 0.0:
        return value
    read = whole_answers(batch) if padding == "counted" else batch
    rows = batch["token_mask"].shape[0]
    total = 0.0
    for row in range(rows):
        terms: list[float] = []
        weights: list[float] = []
        for b, t in live_tokens(read):
            if b == row:
                d = next_token_logprob(batch, outputs, b, t) - float(batch["reference_policy_logprobs"][b, t + 1])
                terms.append(kl_term(d, "k3"))
                weights.append(float(read["token_mask"][b, t + 1]))
        mean = sum(w * k for w, k in zip(weights, terms, strict=True)) / (sum(weights) or 1.0)
        total += row_weight(batch, row) * trained_tokens(batch, row) * mean
    return value + reference_policy_kl_penalty * total / sequence_count(batch, rows)


def summed_importance(batch: Fields, mode: str, is_max: float) -> list[float]:
    """sum_t tm log max(v, 1e-8) of every row, v of r = e^{lp_old - lp_gen} and at most e^20.

    none            v = 1
    token_truncate  v = min(r, is_max)
    token_mask      v = r where r <= is_max, else 0
    """
    if mode not in ("none", "token_truncate", "token_mask"):
        raise ValueError(f"unknown importance_sampling {mode!r}")
    sums = [0.0] * batch["token_mask"].shape[0]
    for b, t in live_tokens(batch):
        if mode == "none":
            continue
        r = exp(float(batch["prev_logprobs"][b, t + 1]) - float(batch["generation_logprobs"][b, t + 1]))
        v = r if r <= is_max else (is_max if mode == "token_truncate" else 0.0)
        sums[b] += float(batch["token_mask"][b, t + 1]) * math.log(min(max(v, 1e-8), math.exp(20.0)))
    return sums


def vespo_weights(
    batch: Fields,
    outputs: Fields,
    k_pos: float,
    lambda_pos: float,
    k_neg: float,
    lambda_neg: float,
    importance_sampling: str = "none",
    is_max: float = 3.0,
) -> TokenTerms:
    """phi = exp(lambda + k log W - lambda W), log W = clamp(sum_t tm clamp(delta, -20, 20) + importance, log 1e-8, 20).

    (k, lambda) = (k_pos, lambda_pos) where A >= 0, else (k_neg, lambda_neg); importance as in summed_importance.
    """
    phis: TokenTerms = {}
    sums = summed_log_ratios(batch, outputs, 20.0)
    importance = summed_importance(batch, importance_sampling, is_max)
    for b, t in live_tokens(batch):
        log_w = min(max(sums[b] + importance[b], math.log(1e-8)), 20.0)
        positive = advantage_at(batch, b, t) >= 0.0
        k, lam = (k_pos, lambda_pos) if positive else (k_neg, lambda_neg)
        phis[b, t] = exp(lam + k * log_w - lam * math.exp(log_w))
    return phis


def vespo(
    batch: Fields,
    outputs: Fields,
    *,
    k_pos: float = 2.0,
    lambda_pos: float = 3.0,
    k_neg: float = 3.0,
    lambda_neg: float = 2.0,
    **importance: Any,
) -> float:
    """l = -sg(phi) A lp by token_mean."""
    terms: TokenTerms = {}
    for (b, t), phi in vespo_weights(batch, outputs, k_pos, lambda_pos, k_neg, lambda_neg, **importance).items():
        terms[b, t] = -phi * advantage_at(batch, b, t) * next_token_logprob(batch, outputs, b, t)
    return aggregate(terms, batch, "token_mean", None)


def vespo_gradient(
    batch: Fields,
    outputs: Fields,
    *,
    k_pos: float = 2.0,
    lambda_pos: float = 3.0,
    k_neg: float = 3.0,
    lambda_neg: float = 2.0,
    **importance: Any,
) -> NDArray[Any]:
    """dl/dlp = -phi A."""
    phis = vespo_weights(batch, outputs, k_pos, lambda_pos, k_neg, lambda_neg, **importance)
    terms = {(b, t): -phi * advantage_at(batch, b, t) for (b, t), phi in phis.items()}
    return spread(terms, batch, "token_mean", None)


def gmpo(
    batch: Fields, outputs: Fields, *, clip_low: float = 0.4, clip_high: float = 0.4, divisor: str = "sequences"
) -> float:
    """l_b = -exp(sum_t tm c_t / n) (sum_t tm A_t / n), mean over sequences; over all rows there are where divisor is rows.

    c_t = min(delta, clip_high) where A_t > 0, max(delta, -clip_low) where A_t < 0, delta where A_t = 0.
    """
    if divisor not in ("sequences", "rows"):
        raise ValueError(f"unknown divisor {divisor!r}")
    rows = batch["token_mask"].shape[0]
    total = 0.0
    for row in range(rows):
        log_sum = 0.0
        advantage_sum = 0.0
        for b, t in live_tokens(batch):
            if b != row:
                continue
            weight = float(batch["token_mask"][b, t + 1])
            a = advantage_at(batch, b, t)
            delta = delta_at(batch, outputs, b, t)
            if a > 0.0:
                delta = min(delta, clip_high)
            elif a < 0.0:
                delta = max(delta, -clip_low)
            log_sum += weight * delta
            advantage_sum += weight * a
        n = max(trained_tokens(batch, row), 1.0)
        if advantage_sum != 0.0:
            total += row_weight(batch, row) * -exp(log_sum / n) * (advantage_sum / n)
    return total / (sequence_count(batch, rows) if divisor == "sequences" else rows)
