"""Preference losses of h_w and h_l apart, r = beta h."""

from .counts import Fields
from .numerics import softplus
from .preference_terms import absolute_mean, sigmoid


def nca_pair(batch: Fields, outputs: Fields, *, beta: float = 0.1) -> float:
    """-log sigma(r_w) - 1/2 log sigma(-r_w) - 1/2 log sigma(-r_l)."""

    def term(chosen: float, rejected: float) -> float:
        return softplus(-beta * chosen) + 0.5 * softplus(beta * chosen) + 0.5 * softplus(beta * rejected)

    return absolute_mean(batch, outputs, term)


def bco_pair(batch: Fields, outputs: Fields, *, beta: float = 0.1) -> float:
    """-log sigma(r_w) - log sigma(-r_l)."""
    return absolute_mean(batch, outputs, lambda chosen, rejected: softplus(-beta * chosen) + softplus(beta * rejected))


def sppo_hard(batch: Fields, outputs: Fields, *, beta: float = 0.1) -> float:
    """(h_w - 1/(2 beta))^2 + (h_l + 1/(2 beta))^2."""
    half = 0.5 / beta
    return absolute_mean(batch, outputs, lambda chosen, rejected: (chosen - half) ** 2 + (rejected + half) ** 2)


def apo_zero(batch: Fields, outputs: Fields, *, beta: float = 0.1) -> float:
    """(1 - sigma(r_w)) + sigma(r_l)."""
    return absolute_mean(batch, outputs, lambda chosen, rejected: sigmoid(-beta * chosen) + sigmoid(beta * rejected))


def apo_down(batch: Fields, outputs: Fields, *, beta: float = 0.1) -> float:
    """sigma(r_w) + 1 - sigma(r_w - r_l)."""

    def term(chosen: float, rejected: float) -> float:
        return sigmoid(beta * chosen) + sigmoid(-beta * (chosen - rejected))

    return absolute_mean(batch, outputs, term)


def dpop(batch: Fields, outputs: Fields, *, beta: float = 0.3, lambda_: float = 50.0) -> float:
    """-log sigma(beta (h_w - h_l - lambda max(0, -h_w)))."""

    def term(chosen: float, rejected: float) -> float:
        return softplus(-beta * (chosen - rejected - lambda_ * max(0.0, -chosen)))

    return absolute_mean(batch, outputs, term)


def cal_dpo(batch: Fields, outputs: Fields, *, beta: float = 0.1) -> float:
    """-log sigma(h_w - h_l) + (h_w - 1/(2 beta))^2 + (h_l + 1/(2 beta))^2; no beta in the first term."""
    half = 0.5 / beta

    def term(chosen: float, rejected: float) -> float:
        return softplus(rejected - chosen) + (chosen - half) ** 2 + (rejected + half) ** 2

    return absolute_mean(batch, outputs, term)
