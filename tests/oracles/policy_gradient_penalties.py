"""Penalties beside a policy gradient: KL estimates (K1-K6) and the entropy bonus (E1), as values.

d = lp - lp_ref. How a KL estimate is differentiated does not change its value.
"""

import math
from functools import partial
from typing import Any

import numpy as np

from .counts import Fields, TokenTerms, aggregate, live_tokens, next_token_logprob
from .numerics import exp, log_softmax
from .policy_gradient import clamped, kl_term

KL_GRADIENTS = ("pathwise", "score_function", "straight_through_k2")


def kl_estimates(
    batch: Fields, outputs: Fields, kl_type: str, input_clamp: float | None, output_clamp: float | None
) -> TokenTerms:
    """clamp(kl(clamp(d, input_clamp)), output_clamp) of every trained token."""
    terms: TokenTerms = {}
    for b, t in live_tokens(batch):
        d = next_token_logprob(batch, outputs, b, t) - float(batch["reference_policy_logprobs"][b, t + 1])
        terms[b, t] = clamped(kl_term(clamped(d, input_clamp), kl_type), output_clamp)
    return terms


def kl_loss(
    kl_type: str,
    batch: Fields,
    outputs: Fields,
    *,
    coefficient: float = 1.0,
    kl_gradient: str = "pathwise",
    input_clamp: float | None = None,
    output_clamp: float | None = None,
    aggregation: str = "token_mean",
    max_length: float | None = None,
) -> float:
    """coefficient times the aggregated estimates: d, d^2 / 2, e^{-d} - 1 + d or |d| of each token."""
    if kl_gradient not in KL_GRADIENTS:
        raise ValueError(f"unknown kl_gradient {kl_gradient!r}")
    terms = kl_estimates(batch, outputs, kl_type, input_clamp, output_clamp)
    return coefficient * aggregate(terms, batch, aggregation, max_length)


kl_k1, kl_k2, kl_k3, kl_abs = (partial(kl_loss, kl_type) for kl_type in ("k1", "k2", "k3", "abs"))


def kl_straight_through(batch: Fields, outputs: Fields, *, kl_type: str = "k3", **shared: Any) -> float:
    """the value of kl_type (the gradient is k2's); settings of kl_loss."""
    return kl_loss(kl_type, batch, outputs, **shared)


def kl_unbiased(
    batch: Fields,
    outputs: Fields,
    *,
    kl_type: str = "k3",
    coefficient: float = 1.0,
    input_clamp: float | None = None,
    output_clamp: float | None = None,
    aggregation: str = "token_mean",
    max_length: float | None = None,
) -> float:
    """coefficient clamp(r kl, output_clamp), r = exp(lp - lp_old), kl of clamp(d, input_clamp)."""
    terms: TokenTerms = {}
    for (b, t), kl in kl_estimates(batch, outputs, kl_type, input_clamp, None).items():
        policy = next_token_logprob(batch, outputs, b, t)
        delta = policy - float(batch["prev_logprobs"][b, t + 1])
        d = clamped(policy - float(batch["reference_policy_logprobs"][b, t + 1]), input_clamp)
        terms[b, t] = clamped(scaled(delta, kl, d), output_clamp)
    return coefficient * aggregate(terms, batch, aggregation, max_length)


def scaled(delta: float, kl: float, d: float) -> float:
    """e^delta kl, also where one factor leaves float64: an infinite kl is k3's e^{-d}."""
    if kl == 0.0:
        return 0.0
    if math.isinf(kl):
        return exp(delta - d)
    return math.copysign(exp(delta + math.log(abs(kl))), kl)


def entropy(logits: list[float]) -> float:
    """H = -sum_v p_v log p_v of the softmax; a token of probability 0 adds nothing."""
    total = 0.0
    for log_p in log_softmax(logits):
        if math.exp(log_p) > 0.0:
            total -= math.exp(log_p) * log_p
    return total


def quantile(values: list[float], q: float) -> float:
    """The sorted values at position q (n - 1), between two of them linearly."""
    ordered = sorted(values)
    position = q * (len(ordered) - 1)
    low = math.floor(position)
    if low + 1 >= len(ordered):
        return ordered[-1]
    return ordered[low] + (position - low) * (ordered[low + 1] - ordered[low])


def entropy_bonus(
    batch: Fields,
    outputs: Fields,
    *,
    coefficient: float = 0.01,
    top_quantile: float = 1.0,
    divisor: str = "trained",
    aggregation: str = "token_mean",
    max_length: float | None = None,
) -> float:
    """-coefficient H aggregated, H of the logits that predict a trained token.

    Only tokens with H >= the (1 - top_quantile)-quantile of the batch's trained tokens count; with divisor "trained" the
    others stay in the divisors, with 0. With "kept" they are as untrained, and a mean over tokens is one over those of
    this batch, whatever the counts.
    """
    if divisor not in ("trained", "kept"):
        raise ValueError(f"unknown divisor {divisor!r}")
    terms: TokenTerms = {}
    for b, t in live_tokens(batch):
        terms[b, t] = entropy([float(z) for z in outputs["logits"][b, t]])
    if terms and top_quantile < 1.0:
        threshold = quantile(list(terms.values()), 1.0 - top_quantile)
        if divisor == "kept":
            mask = np.zeros(batch["token_mask"].shape)
            for b, t in terms:
                mask[b, t + 1] = float(batch["token_mask"][b, t + 1]) if terms[b, t] >= threshold else 0.0
            batch = {**batch, "token_mask": mask}
            if aggregation == "token_mean":
                batch = {name: value for name, value in batch.items() if name != "global_valid_toks"}
        terms = {place: h if h >= threshold else 0.0 for place, h in terms.items()}
    return -coefficient * aggregate(terms, batch, aggregation, max_length)
