"""What the preference oracles share: scores of a row, and the weighted mean over pairs."""

import math
from collections.abc import Callable

from .counts import Fields, live_tokens, next_token_logprob, pair_count, pair_weights
from .numerics import softplus
from .preference import sequence_log_ratio


def sigmoid(x: float) -> float:
    """sigma(x) = e^{-softplus(-x)}."""
    return math.exp(-softplus(-x))


def bernoulli_kl(a: float, b: float) -> float:
    """KL(Bern(sigma(a)) || Bern(sigma(b))), from log sigma(z) = -softplus(-z)."""
    return sigmoid(a) * (softplus(-b) - softplus(-a)) + sigmoid(-a) * (softplus(b) - softplus(a))


def smoothed(x: float, e: float) -> float:
    """cdpo's term: -(1-e) log sigma(x) - e log sigma(-x)."""
    return (1.0 - e) * softplus(-x) + e * softplus(x)


def trained_tokens(batch: Fields, row: int) -> float:
    """n = sum_t tm (sample_mask is no part of it)."""
    return sum(float(batch["token_mask"][b, t + 1]) for b, t in live_tokens(batch) if b == row)


def sequence_logprob(batch: Fields, outputs: Fields, row: int, average: bool) -> float:
    """p = sum_t tm lp; with average: p / max(n, 1). No reference."""
    total = 0.0
    for b, t in live_tokens(batch):
        if b == row:
            total += float(batch["token_mask"][b, t + 1]) * next_token_logprob(batch, outputs, b, t)
    return total / max(trained_tokens(batch, row), 1.0) if average else total


def log_ratio_pair(batch: Fields, outputs: Fields, n: int, average: bool = False) -> tuple[float, float]:
    """(h_w, h_l) of pair n."""
    return (
        sequence_log_ratio(batch, outputs, 2 * n, average),
        sequence_log_ratio(batch, outputs, 2 * n + 1, average),
    )


def logprob_pair(batch: Fields, outputs: Fields, n: int, average: bool = False) -> tuple[float, float]:
    """(p_w, p_l) of pair n."""
    return sequence_logprob(batch, outputs, 2 * n, average), sequence_logprob(batch, outputs, 2 * n + 1, average)


def pair_mean(batch: Fields, term: Callable[[int], float]) -> float:
    """sum_n w_n term(n) / pairs; w_n = min of the pair's sample_mask, pairs = S_g/2 or sum_n w_n, at least 1."""
    weights = pair_weights(batch, batch["token_mask"].shape[0])
    total = 0.0
    for n, weight in enumerate(weights):
        if weight != 0.0:
            total += weight * term(n)
    return total / pair_count(batch, weights)


def margin_mean(batch: Fields, outputs: Fields, term: Callable[[float], float], average: bool = False) -> float:
    """pair_mean of term(D), D = h_w - h_l (of averages where average)."""

    def of_pair(n: int) -> float:
        chosen, rejected = log_ratio_pair(batch, outputs, n, average)
        return term(chosen - rejected)

    return pair_mean(batch, of_pair)


def absolute_mean(batch: Fields, outputs: Fields, term: Callable[[float, float], float]) -> float:
    """pair_mean of term(h_w, h_l)."""
    return pair_mean(batch, lambda n: term(*log_ratio_pair(batch, outputs, n)))
