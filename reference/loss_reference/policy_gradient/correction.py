"""Weights that correct for tokens drawn by another policy than the old one: W = pi_old / pi_gen, bounded or cut off.

The engine that generates is never quite the model that is trained. Every function takes the log-ratio x = lp_old - lp_gen
[B, S-1], 0 at untrained tokens, with m [B, S-1] their weights, and returns a constant that multiplies the policy term,
[B, S-1] or [B, 1]; 1 where both policies agree (x = 0) and the bounds include 1. Exponents saturate at 70 nats
(``MAX_LOG_RATIO``).
"""

from __future__ import annotations

import math
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from loss_reference.policy_gradient.kl import k2, k3
from loss_reference.policy_gradient.ratio import mean_over_tokens, ratio_of

__all__ = [
    "DIVERGENCES",
    "DIVERGENCE_LEVELS",
    "divergence_kept",
    "icepop_weight",
    "mean_one",
    "off_policy_kept",
    "seq_mask_tis_weight",
    "seq_mask_weight",
    "seq_truncate_weight",
    "tis_weight",
]

DIVERGENCES: Final = ("k1", "k2", "k3")
DIVERGENCE_LEVELS: Final = ("token", "seq_mean", "seq_sum", "seq_max")
SMALLEST_MEAN: Final = 1e-8
FLOAT32_OVERFLOW: Final = math.log(torch.finfo(torch.float32).max)


def tis_weight(x: Tensor, is_min: float, is_max: float, overflow: str = "saturate") -> Tensor:
    """Return clip(e^x, is_min, is_max) per token.

    With ``overflow="zero"`` an e^x beyond float32, or none at all (x of two infinities), counts as 0 first.
    """
    W = ratio_of(x)
    return (W if overflow == "saturate" else torch.where(x <= FLOAT32_OVERFLOW, W, 0.0)).clamp(is_min, is_max)


def icepop_weight(x: Tensor, is_min: float, is_max: float) -> Tensor:
    """Return e^x per token where is_min <= e^x <= is_max, 0 elsewhere."""
    W = ratio_of(x)
    return W * ((is_min <= W) & (is_max >= W))


def seq_truncate_weight(x: Tensor, is_max: float) -> Tensor:
    """Return min(exp(sum_t x), is_max) per row [B, 1]."""
    return ratio_of(x.sum(dim=1, keepdim=True)).clamp(max=is_max)


def seq_mask_weight(x: Tensor, is_min: float, is_max: float) -> Tensor:
    """Return exp(sum_t x) per row [B, 1] where it is within [is_min, is_max], 0 elsewhere."""
    return icepop_weight(x.sum(dim=1, keepdim=True), is_min, is_max)


def seq_mask_tis_weight(x: Tensor, m: Tensor, is_min: float, is_max: float) -> Tensor:
    """Return e^x per token, unbounded, in rows where is_min <= exp(mean_t x) <= is_max, 0 in the others."""
    geometric_mean = ratio_of(mean_over_tokens(x, m))
    return ratio_of(x) * ((geometric_mean >= is_min) & (geometric_mean <= is_max))


def mean_one(W: Tensor, weights: Tensor) -> Tensor:
    """Return W over its mean sum(weights W) / sum(weights), both of one shape; W itself where the mean is 1e-8 at most."""
    total = weights.sum()
    mean = (weights * W).sum() / total.where(total != 0, 1.0)
    return W / mean.where(mean > SMALLEST_MEAN, 1.0)


def off_policy_kept(drift: Tensor, A: Tensor, m: Tensor, threshold: float) -> Tensor:
    """Return 0 at tokens with A < 0 of rows where mean_t drift > threshold, drift = lp_gen - lp, and 1 elsewhere."""
    return 1 - ((A < 0) & (mean_over_tokens(drift, m) > threshold)).to(m)


def divergence_kept(x: Tensor, m: Tensor, estimator: str, level: str, upper: float, lower: float) -> Tensor:
    """Return 1 where two policies are close and 0 elsewhere, per token, or per row [B, 1].

    With u the ``level`` of x (its own, or the mean, the sum or the largest over the row's trained tokens): k1 keeps
    lower <= e^u <= upper, u of x; k2 keeps u <= upper, u of x^2 / 2; k3 keeps u <= upper, u of e^x - 1 - x.
    """
    k = {"k1": x, "k2": k2(x), "k3": k3(-x)}[estimator]
    u = {
        "token": lambda: k,
        "seq_mean": lambda: mean_over_tokens(k, m),
        "seq_sum": lambda: k.sum(dim=1, keepdim=True),
        "seq_max": lambda: F.pad(k, (1, 0)).amax(dim=1, keepdim=True),  # k2 and k3 are at least 0
    }[level]()
    if estimator == "k1":
        return ((ratio_of(u) >= lower) & (ratio_of(u) <= upper)).to(m)
    return (u <= upper).to(m)
