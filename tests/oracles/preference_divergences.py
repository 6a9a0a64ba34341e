"""f-DPO: -log sigma(beta (u(h_w) - u(h_l))) with u the derivative of a divergence."""

from collections.abc import Callable

from .counts import Fields
from .numerics import exp, softplus
from .preference_terms import absolute_mean

EXPONENT_MAX = 80.0  # the clamp on the exponent that fdpo_forward_kl to fdpo_alpha recommend for both forms with an exp


def clamped_exp(x: float) -> float:
    """e^{min(x, 80)}."""
    return exp(min(x, EXPONENT_MAX))


def f_dpo(batch: Fields, outputs: Fields, beta: float, u: Callable[[float], float]) -> float:
    """-log sigma(beta (u(h_w) - u(h_l)))."""
    return absolute_mean(batch, outputs, lambda chosen, rejected: softplus(-beta * (u(chosen) - u(rejected))))


def fdpo_forward_kl(batch: Fields, outputs: Fields, *, beta: float = 0.1) -> float:
    """u(h) = -e^{-h}."""
    return f_dpo(batch, outputs, beta, lambda h: -clamped_exp(-h))


def fdpo_js(batch: Fields, outputs: Fields, *, beta: float = 0.1) -> float:
    """u(h) = log sigma(h)."""
    return f_dpo(batch, outputs, beta, lambda h: -softplus(-h))


def fdpo_alpha(batch: Fields, outputs: Fields, *, beta: float = 0.1, alpha: float = 0.5) -> float:
    """u(h) = e^{(a-1) h} / (a-1), a = alpha; a = 1 is the limit, u(h) = h (dpo)."""
    if alpha == 1.0:
        return f_dpo(batch, outputs, beta, lambda h: h)
    return f_dpo(batch, outputs, beta, lambda h: clamped_exp((alpha - 1.0) * h) / (alpha - 1.0))
