"""Preference losses with given rewards of both rows: x = beta (h_w - h_l)."""

from collections.abc import Callable

from .counts import Fields
from .numerics import softplus
from .preference_terms import bernoulli_kl, log_ratio_pair, pair_mean


def reward_mean(batch: Fields, outputs: Fields, term: Callable[[float, float], float]) -> float:
    """pair_mean of term(D, rew_w - rew_l), rew = batch["rewards"]."""

    def of_pair(n: int) -> float:
        chosen, rejected = log_ratio_pair(batch, outputs, n)
        return term(chosen - rejected, float(batch["rewards"][2 * n]) - float(batch["rewards"][2 * n + 1]))

    return pair_mean(batch, of_pair)


def rpo_sq(batch: Fields, outputs: Fields, *, beta: float = 0.2, eta: float = 1.0) -> float:
    """rpo_sq sq: (x - y)^2, y = eta (rew_w - rew_l)."""
    return reward_mean(batch, outputs, lambda margin, gap: (beta * margin - eta * gap) ** 2)


def rpo_fwd_kl(batch: Fields, outputs: Fields, *, beta: float = 0.2, eta: float = 1.0) -> float:
    """rpo_sq fwd_kl: KL(Bern(sigma(x)) || Bern(sigma(y)))."""
    return reward_mean(batch, outputs, lambda margin, gap: bernoulli_kl(beta * margin, eta * gap))


def rpo_bwd_kl(batch: Fields, outputs: Fields, *, beta: float = 0.2, eta: float = 1.0) -> float:
    """rpo_sq bwd_kl: KL(Bern(sigma(y)) || Bern(sigma(x)))."""
    return reward_mean(batch, outputs, lambda margin, gap: bernoulli_kl(eta * gap, beta * margin))


def odpo(batch: Fields, outputs: Fields, *, beta: float = 0.1, alpha: float = 1.0) -> float:
    """-log sigma(x - alpha (rew_w - rew_l)); f is the identity."""
    return reward_mean(batch, outputs, lambda margin, gap: softplus(-(beta * margin - alpha * gap)))


def rebel(batch: Fields, outputs: Fields, *, eta: float = 1.0) -> float:
    """(D / eta - (rew_w - rew_l))^2."""
    return reward_mean(batch, outputs, lambda margin, gap: (margin / eta - gap) ** 2)
