"""Preference losses of the margin D = h_w - h_l alone, x = beta D."""

import math

from .counts import Fields, live_tokens, next_token_logprob
from .numerics import exp, softplus
from .preference_terms import bernoulli_kl, log_ratio_pair, margin_mean, pair_mean, sigmoid, smoothed, trained_tokens


def cdpo(batch: Fields, outputs: Fields, *, beta: float = 0.1, label_smoothing: float = 0.1) -> float:
    """-(1-e) log sigma(x) - e log sigma(-x), e = label_smoothing."""
    return margin_mean(batch, outputs, lambda margin: smoothed(beta * margin, label_smoothing))


def robust_dpo(batch: Fields, outputs: Fields, *, beta: float = 0.1, label_smoothing: float = 0.1) -> float:
    """[-(1-e) log sigma(x) + e log sigma(-x)] / (1 - 2e), 0 <= e < 1/2."""
    e = label_smoothing
    if not 0.0 <= e < 0.5:
        raise ValueError(f"label_smoothing must be in [0, 0.5), got {e}")

    def term(margin: float) -> float:
        x = beta * margin
        return ((1.0 - e) * softplus(-x) - e * softplus(x)) / (1.0 - 2.0 * e)

    return margin_mean(batch, outputs, term)


def hinge_dpo(batch: Fields, outputs: Fields, *, beta: float = 0.1) -> float:
    """max(0, 1 - x)."""
    return margin_mean(batch, outputs, lambda margin: max(0.0, 1.0 - beta * margin))


def ipo(batch: Fields, outputs: Fields, *, beta: float = 0.1, average_log_probs: bool = False) -> float:
    """(D - 1/(2 beta))^2, D of sums, or of averages where average_log_probs."""
    return margin_mean(batch, outputs, lambda margin: (margin - 0.5 / beta) ** 2, average_log_probs)


def dpo_norm(batch: Fields, outputs: Fields, *, beta: float = 0.1) -> float:
    """-log sigma(beta (h_w / n_w - h_l / n_l))."""
    return margin_mean(batch, outputs, lambda margin: softplus(-beta * margin), True)


def exo_pair(batch: Fields, outputs: Fields, *, beta: float = 0.1, label_smoothing: float = 1e-3) -> float:
    """KL(Bern(sigma(x)) || Bern(1-e)) = q (log q - log(1-e)) + (1-q) (log(1-q) - log e), q = sigma(x); e > 0."""
    e = label_smoothing
    if not 0.0 < e < 1.0:
        raise ValueError(f"label_smoothing must be in (0, 1), got {e}")
    target = math.log1p(-e) - math.log(e)  # sigma(target) = 1 - e
    return margin_mean(batch, outputs, lambda margin: bernoulli_kl(beta * margin, target))


def discopop(batch: Fields, outputs: Fields, *, beta: float = 0.1, tau: float = 0.05) -> float:
    """(1-w) (-log sigma(x)) + w e^{-x}, w = sigma(x / tau); the last as e^{-x + log sigma(x / tau)}."""

    def term(margin: float) -> float:
        x = beta * margin
        return sigmoid(-x / tau) * softplus(-x) + exp(-x - softplus(-x / tau))

    return margin_mean(batch, outputs, term)


def ld_dpo(batch: Fields, outputs: Fields, *, beta: float = 0.1, alpha: float = 0.5) -> float:
    """dpo with h = sum_{k <= L} d_k + alpha sum_{k > L} d_k; L = min(n_w, n_l), d = tm (lp - lp_ref).

    k = 1, 2, .. counts the row's trained tokens (those of token_mask != 0), not its columns.
    """

    def deltas(row: int) -> list[float]:
        found = []
        for b, t in live_tokens(batch):
            if b == row:
                reference = float(batch["reference_policy_logprobs"][b, t + 1])
                gap = next_token_logprob(batch, outputs, b, t) - reference
                found.append(float(batch["token_mask"][b, t + 1]) * gap)
        return found

    def term(n: int) -> float:
        chosen, rejected = deltas(2 * n), deltas(2 * n + 1)
        shared = min(len(chosen), len(rejected))
        scores = [sum(side[:shared]) + alpha * sum(side[shared:]) for side in (chosen, rejected)]
        return softplus(-beta * (scores[0] - scores[1]))

    return pair_mean(batch, term)


def r_dpo(batch: Fields, outputs: Fields, *, beta: float = 0.1, alpha: float = 0.01) -> float:
    """-log sigma(x + alpha (n_w - n_l)); n = sum_t tm of the row."""

    def term(n: int) -> float:
        chosen, rejected = log_ratio_pair(batch, outputs, n)
        lengths = trained_tokens(batch, 2 * n) - trained_tokens(batch, 2 * n + 1)
        return softplus(-(beta * (chosen - rejected) + alpha * lengths))

    return pair_mean(batch, term)
