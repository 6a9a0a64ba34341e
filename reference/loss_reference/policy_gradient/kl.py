"""Per-token estimators of KL(policy || reference), and the gradient they are given.

With d = lp - lp_ref on a token sampled from the policy pi:

====== ================ ==================== ===========================
name   k(d)             dk/dd                 expectation of dk/dlp
====== ================ ==================== ===========================
k1     d                1                     0
k2     d^2 / 2          d                     grad KL(pi || ref)
k3     e^-d - 1 + d     1 - e^-d              grad KL(ref || pi)
abs    |d|              sign d                neither
====== ================ ==================== ===========================
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from loss_reference.policy_gradient.ratio import MAX_LOG_RATIO

__all__ = ["KL_GRADIENTS", "KL_TYPES", "k1", "k2", "k3", "k_abs", "kl_penalty"]


def k1(d: Tensor) -> Tensor:
    """Return d: unbiased, of either sign."""
    return d


def k2(d: Tensor) -> Tensor:
    """Return d^2 / 2: biased, at least 0."""
    return d.square() / 2


def k3(d: Tensor) -> Tensor:
    """Return e^-d - 1 + d: unbiased and at least 0; the exponent -d is at most ``MAX_LOG_RATIO``."""
    d = d.clamp(min=-MAX_LOG_RATIO)
    return torch.expm1(-d) + d


def k_abs(d: Tensor) -> Tensor:
    """Return \\|d\\|: at least 0."""
    return d.abs()


ESTIMATORS: Final[dict[str, Callable[[Tensor], Tensor]]] = {"k1": k1, "k2": k2, "k3": k3, "abs": k_abs}

# k(d) + dk/dd, in a form that does not cancel: for k3 the exponentials are gone.
SCORE_FUNCTION_SLOPES: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "k1": lambda d: 1 + d,
    "k2": lambda d: d + d.square() / 2,
    "k3": lambda d: d,
    "abs": lambda d: d.sign() + d.abs(),
}

KL_TYPES: Final = tuple(ESTIMATORS)
KL_GRADIENTS: Final = ("pathwise", "score_function", "straight_through_k2")


def kl_penalty(lp: Tensor, lp_ref: Tensor, kl_type: str = "k3", kl_gradient: str = "pathwise") -> Tensor:
    """Return k(lp - lp_ref) per token, with the gradient that ``kl_gradient`` names. ``lp_ref`` is constant.

    =================== ============================================================== =====================
    kl_gradient         dk/dlp                                                         in
    =================== ============================================================== =====================
    pathwise            dk/dd, the gradient of the value                                TRL, Liger, torchtune
    score_function      k + dk/dd, of exp(lp - sg lp) k: sampling depends on lp too     NeMo RL
    straight_through_k2 d, that of k2 whatever the value                                verl ``k1+``, ``k3+``
    =================== ============================================================== =====================
    """
    d = lp - lp_ref.detach()
    k = ESTIMATORS[kl_type](d)
    if kl_gradient == "pathwise":
        return k
    slope = d if kl_gradient == "straight_through_k2" else SCORE_FUNCTION_SLOPES[kl_type](d)
    return k.detach() + slope.detach() * (d - d.detach())
