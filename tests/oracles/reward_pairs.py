"""Reward-model losses that compare the rows of a pair, or of a group, by their predicted rewards rho."""

from collections.abc import Callable

from .counts import Fields, pair_count, pair_weights
from .groups import best_first, group_mean
from .numerics import logsumexp, softplus


def reward_pair_mean(batch: Fields, outputs: Fields, term: Callable[[int, float, float], float]) -> float:
    """sum_n w_n term(row of the chosen, rho_w, rho_l) / pairs, weighed and counted as bradley_terry is."""
    weights = pair_weights(batch, outputs["rewards"].shape[0])
    total = 0.0
    for n, weight in enumerate(weights):
        if weight != 0.0:
            chosen, rejected = float(outputs["rewards"][2 * n]), float(outputs["rewards"][2 * n + 1])
            total += weight * term(2 * n, chosen, rejected)
    return total / pair_count(batch, weights)


def bt_margin(batch: Fields, outputs: Fields) -> float:
    """R2: -log sigma(rho_w - rho_l - margin), the margin of the chosen row."""

    def term(row: int, chosen: float, rejected: float) -> float:
        return softplus(-(chosen - rejected - float(batch["margin"][row])))

    return reward_pair_mean(batch, outputs, term)


def bt_centered(batch: Fields, outputs: Fields, *, center_coefficient: float = 0.01) -> float:
    """R3: -log sigma(rho_w - rho_l) + c (rho_w + rho_l)^2."""

    def term(_row: int, chosen: float, rejected: float) -> float:
        return softplus(rejected - chosen) + center_coefficient * (chosen + rejected) ** 2

    return reward_pair_mean(batch, outputs, term)


def logexp_pairwise(batch: Fields, outputs: Fields) -> float:
    """R4: log(1 + e^{rho_l - rho_w}), which is bradley_terry's term."""
    return reward_pair_mean(batch, outputs, lambda _row, chosen, rejected: softplus(rejected - chosen))


def bt_soft_label(batch: Fields, outputs: Fields) -> float:
    """R5: -q log sigma(d) - (1-q) log sigma(-d), d = rho_w - rho_l, q = the chosen row's preference_probability."""

    def term(row: int, chosen: float, rejected: float) -> float:
        q = float(batch["preference_probability"][row])
        return q * softplus(rejected - chosen) + (1.0 - q) * softplus(chosen - rejected)

    return reward_pair_mean(batch, outputs, term)


def all_pairs_k(batch: Fields, outputs: Fields, *, group_size: int = 2) -> float:
    """R8: per group sum -log sigma(rho_i - rho_j) over the pairs with reward_i > reward_j, over K (K-1) / 2.

    A pair of equal true rewards adds nothing to the sum and still counts among the K (K-1) / 2.
    """

    def term(members: range) -> float:
        total = 0.0
        for better in members:
            for worse in members:
                if float(batch["rewards"][better]) > float(batch["rewards"][worse]):
                    total += softplus(float(outputs["rewards"][worse]) - float(outputs["rewards"][better]))
        return total / (group_size * (group_size - 1) / 2)

    return group_mean(batch, outputs["rewards"].shape[0], group_size, term)


def plackett_luce_rm(batch: Fields, outputs: Fields, *, group_size: int = 2) -> float:
    """R9: per group sum_k (logsumexp(rho_k, .., rho_K) - rho_k), k running from the best true reward to the worst."""

    def term(members: range) -> float:
        scores = [float(outputs["rewards"][b]) for b in best_first(batch["rewards"], members)]
        return sum(logsumexp(scores[k:]) - scores[k] for k in range(len(scores)))

    return group_mean(batch, outputs["rewards"].shape[0], group_size, term)
