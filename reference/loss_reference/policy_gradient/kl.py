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

__all__ = ["KL_GRADIENTS", "KL_TYPES", "k1", "k2", "k3", "k_abs", "kl_penalty", "unbiased_kl"]


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


def kl_penalty(
    lp: Tensor,
    lp_ref: Tensor,
    kl_type: str = "k3",
    kl_gradient: str = "pathwise",
    input_clamp: float | None = None,
    output_clamp: float | None = None,
) -> Tensor:
    """Return k(lp - lp_ref) per token, with the gradient that ``kl_gradient`` names. ``lp_ref`` is constant.

    =================== ============================================================== =====================
    kl_gradient         dk/dlp                                                         in
    =================== ============================================================== =====================
    pathwise            dk/dd, the gradient of the value                                TRL, Liger, torchtune
    score_function      k + dk/dd, of exp(lp - sg lp) k: sampling depends on lp too     NeMo RL
    straight_through_k2 d, that of k2 whatever the value                                verl ``k1+``, ``k3+``
    =================== ============================================================== =====================

    ``input_clamp`` keeps d within +-input_clamp before k is formed, ``output_clamp`` keeps k within +-output_clamp. Where
    a clamp holds the gradient is 0, but for straight_through_k2, which stays d. NeMo RL has 20 and 10, verl 20 and 10 for
    k3 alone, OpenRLHF no input clamp and 10, Open-Instruct 40 and no output clamp, TRL, Liger and torchtune none.

    Where d is infinite, at a token that one of the two cannot give, k is its limit, with the pathwise gradient.
    """
    d = lp - lp_ref.detach()
    infinite = d.isinf()
    limit = _within(ESTIMATORS[kl_type](_within(d, input_clamp)), output_clamp)
    if output_clamp is not None:  # the clamp of an infinite k would send 0 times inf backwards
        limit = limit.detach()
    return torch.where(
        infinite, limit, _finite_penalty(d.masked_fill(infinite, 0.0), kl_type, kl_gradient, input_clamp, output_clamp)
    )


def unbiased_kl(
    lp: Tensor,
    lp_ref: Tensor,
    lp_old: Tensor,
    kl_type: str = "k3",
    input_clamp: float | None = None,
    output_clamp: float | None = None,
) -> Tensor:
    """Return rho k(lp - lp_ref) per token, rho = exp(lp - lp_old): k of tokens that another policy sampled.

    The exponent of rho is at most ``MAX_LOG_RATIO`` less that of e^-d, so that the product stays finite.

    Args:
        lp, lp_ref, lp_old: log-probabilities under the policy, the reference and the policy that sampled the tokens, in
            nats; the latter two constant.
        kl_type: which of ``KL_TYPES`` k is.
        input_clamp: d = lp - lp_ref is kept within it, either way; beyond, rho has no gradient either.
        output_clamp: rho k is kept within it, either way.
    """
    d = (lp - lp_ref).detach()
    room = MAX_LOG_RATIO - (-d).clamp(0.0, MAX_LOG_RATIO)
    rho = torch.minimum(lp - lp_old, room).exp()
    if input_clamp is not None:
        rho = torch.where(d.abs() <= input_clamp, rho, rho.detach())
    return _within(rho * kl_penalty(lp, lp_ref, kl_type, input_clamp=input_clamp), output_clamp)


def _finite_penalty(
    raw: Tensor, kl_type: str, kl_gradient: str, input_clamp: float | None, output_clamp: float | None
) -> Tensor:
    d = _within(raw, input_clamp)
    k = ESTIMATORS[kl_type](d)
    if kl_gradient == "pathwise":
        return _within(k, output_clamp)
    if kl_gradient == "straight_through_k2":
        return _within(k, output_clamp).detach() + raw.detach() * (raw - raw.detach())
    return _within(k.detach() + SCORE_FUNCTION_SLOPES[kl_type](d).detach() * (d - d.detach()), output_clamp)


def _within(x: Tensor, bound: float | None) -> Tensor:
    return x if bound is None else x.clamp(-bound, bound)
