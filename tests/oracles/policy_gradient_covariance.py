"""Policy-gradient losses over whole batches or sequences: G2, G16-G18, G20, G21.

delta = lp - lp_old, r = exp(delta), A = advantages; T = number of trained tokens in the batch.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .counts import Fields, TokenTerms, aggregate, live_tokens, next_token_logprob, row_weight
from .numerics import exp, logsumexp
from .policy_gradient import ppo_clip, ppo_term
from .policy_gradient_sequences import summed_log_ratios
from .policy_gradient_tokens import advantage_at, delta_at, reinforce
from .preference import sequence_log_ratio
from .preference_terms import trained_tokens
from .preference_unpaired import row_mean


def rloo(
    batch: Fields,
    outputs: Fields,
    *,
    ratio_level: str = "sequence",
    ratio_clip_min: float = 0.2,
    ratio_clip_max: float = 0.2,
) -> float:
    """G2.

    sequence  row mean of max(-A_b s, -A_b clip(s)), s = exp(sum_t tm delta), A_b = sum_t tm A / max(n, 1)
    token     G3 by token_mean
    """
    if ratio_level == "token":
        return ppo_clip(batch, outputs, ratio_clip_min=ratio_clip_min, ratio_clip_max=ratio_clip_max)
    if ratio_level != "sequence":
        raise ValueError(f"unknown ratio_level {ratio_level!r}")
    sums = summed_log_ratios(batch, outputs)

    def term(row: int) -> float:
        total = 0.0
        for b, t in live_tokens(batch):
            if b == row:
                total += float(batch["token_mask"][b, t + 1]) * advantage_at(batch, b, t)
        mean = total / max(trained_tokens(batch, row), 1.0)
        return ppo_term(exp(sums[row]), mean, ratio_clip_min, ratio_clip_max, None)

    return row_mean(batch, term)


def gpg(batch: Fields, outputs: Fields, *, aggregation: str = "token_mean", max_length: float | None = None) -> float:
    """G16: l = -A lp, as G1; only its advantages are its own."""
    return reinforce(batch, outputs, aggregation=aggregation, max_length=max_length)


def covariances(batch: Fields, outputs: Fields) -> TokenTerms:
    """(A - mean A) (lp - mean lp) of every trained token, plain means over the batch's trained tokens."""
    live = live_tokens(batch)
    if not live:
        return {}
    mean_advantage = sum(advantage_at(batch, b, t) for b, t in live) / len(live)
    mean_logprob = sum(next_token_logprob(batch, outputs, b, t) for b, t in live) / len(live)
    terms: TokenTerms = {}
    for b, t in live:
        deviation = advantage_at(batch, b, t) - mean_advantage
        terms[b, t] = deviation * (next_token_logprob(batch, outputs, b, t) - mean_logprob)
    return terms


def selected_count(ratio: float, tokens: int) -> int:
    """max(1, ceil(ratio T))."""
    return max(1, math.ceil(ratio * tokens))


def clip_cov(
    batch: Fields,
    outputs: Fields,
    *,
    ratio_clip_min: float = 0.2,
    ratio_clip_max: float = 0.2,
    clip_cov_ratio: float = 2e-4,
    clip_cov_lb: float = 1.0,
    clip_cov_ub: float = 5.0,
) -> float:
    """G17: G3 by token_mean, with the term set to 0 at k of the candidates.

    A candidate has lb < cov < ub, and -A clip(r) not above -A r. k = min(candidates, max(1, ceil(ratio T))), those
    of the smallest selection_noise, of equal noise the earlier ones; the noise is needed where candidates are left.
    """
    terms: TokenTerms = {}
    candidates: list[tuple[int, int]] = []
    for (b, t), cov in covariances(batch, outputs).items():
        a = advantage_at(batch, b, t)
        ratio = exp(delta_at(batch, outputs, b, t))
        terms[b, t] = ppo_term(ratio, a, ratio_clip_min, ratio_clip_max, None)
        clipped = -a * min(max(ratio, 1.0 - ratio_clip_min), 1.0 + ratio_clip_max) > -a * ratio
        if clip_cov_lb < cov < clip_cov_ub and not clipped:
            candidates.append((b, t))
    count = selected_count(clip_cov_ratio, len(terms))
    if count < len(candidates):
        if "selection_noise" not in batch:
            raise ValueError("selection_noise tells which candidates are set to 0")
        candidates.sort(key=lambda place: (float(batch["selection_noise"][place[0], place[1] + 1]), place))
    for place in candidates[:count]:
        terms[place] = 0.0
    return aggregate(terms, batch, "token_mean", None)


def kl_cov(batch: Fields, outputs: Fields, *, kl_cov_ratio: float = 2e-4, ppo_kl_coef: float = 1.0) -> float:
    """G18: l = -A r by token_mean, plus ppo_kl_coef |delta| at the max(1, ceil(ratio T)) tokens of the highest cov.

    Of equal cov the earlier tokens, row by row.
    """
    terms: TokenTerms = {}
    covs = covariances(batch, outputs)
    for b, t in covs:
        terms[b, t] = -advantage_at(batch, b, t) * exp(delta_at(batch, outputs, b, t))
    ranked = sorted(covs, key=lambda place: (-covs[place], place))
    for b, t in ranked[: selected_count(kl_cov_ratio, len(covs))]:
        terms[b, t] += ppo_kl_coef * abs(delta_at(batch, outputs, b, t))
    return aggregate(terms, batch, "token_mean", None)


def a2po(batch: Fields, outputs: Fields, *, beta: float = 1e-3) -> float:
    """G20: row mean of (beta h - (reward - v_star))^2."""

    def term(b: int) -> float:
        gap = float(batch["rewards"][b]) - float(batch["v_star"][b])
        return (beta * sequence_log_ratio(batch, outputs, b, False) - gap) ** 2

    return row_mean(batch, term)


def a2po_value(reference_rewards: NDArray[Any], beta1: float = 0.5) -> NDArray[Any]:
    """G20's V* = beta1 (log sum_i e^{r_i / beta1} - log n) over the last axis, the n reference samples."""
    rewards = np.asarray(reference_rewards, dtype=np.float64)
    values = np.zeros(rewards.shape[:-1])
    for place in np.ndindex(*values.shape):
        samples = [float(r) / beta1 for r in rewards[place]]
        values[place] = beta1 * (logsumexp(samples) - math.log(len(samples)))
    return values


def vapo_nll(batch: Fields, outputs: Fields, *, coefficient: float = 1.0) -> float:
    """G21: coefficient sum m (-lp) / max(D, 1) over the rows of positive reward.

    D = global_correct_toks, or else the sum of those m.
    """
    total = 0.0
    count = 0.0
    for b, t in live_tokens(batch):
        if float(batch["rewards"][b]) > 0.0:
            weight = float(batch["token_mask"][b, t + 1]) * row_weight(batch, b)
            total -= weight * next_token_logprob(batch, outputs, b, t)
            count += weight
    if "global_correct_toks" in batch:
        count = float(batch["global_correct_toks"])
    return coefficient * total / max(count, 1.0)
