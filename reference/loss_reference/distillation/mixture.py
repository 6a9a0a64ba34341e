"""Divergences from a mixture of teacher and student, which stay finite where one of them is 0."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from loss_reference.contract import Option
from loss_reference.distillation.divergence import DivergenceLoss
from loss_reference.distillation.kl import forward_kl, reverse_kl
from loss_reference.distillation.soft_ce import FORWARD_PARTS, VALUE_ALONE, soft_ce
from loss_reference.registry import register
from loss_reference.settings import Setting
from loss_reference.token_level import refine

__all__ = [
    "GeneralizedJSDLoss",
    "SkewForwardKLLoss",
    "SkewReverseKLLoss",
    "generalized_jsd",
    "log_mixture",
    "skew_forward_kl",
    "skew_reverse_kl",
]


def log_mixture(log_a: Tensor, log_b: Tensor, w: float) -> Tensor:
    """Return log((1 - w) a + w b), entry by entry, for w in [0, 1]; -inf where both are 0, with gradient 0 there."""
    x, y = (log + (math.log(share) if share > 0 else -math.inf) for log, share in ((log_a, 1 - w), (log_b, w)))
    impossible = torch.isneginf(x) & torch.isneginf(y)
    # The derivative of logaddexp at (-inf, -inf) is NaN, so these entries do not pass through it.
    mixed = torch.logaddexp(x.masked_fill(impossible, 0.0), y.masked_fill(impossible, 0.0))
    return mixed.masked_fill(impossible, -torch.inf)


def generalized_jsd(log_p: Tensor, log_q: Tensor, beta: float = 0.5) -> Tensor:
    """Return beta KL(p || M) + (1 - beta) KL(q || M) over the last axis, M = (1 - beta) q + beta p.

    At beta = 0 it is KL(p || q) and at beta = 1 KL(q || p), although the formula tends to 0 there: KL(p || q) is its limit
    divided by beta, KL(q || p) its limit divided by 1 - beta. p and q need not sum to 1; inside (0, 1) every entry of the
    sum is at least 0 all the same.

    Args:
        log_p: log-probabilities of the teacher.
        log_q: log-probabilities of the student, of the same shape.
        beta: weight of the teacher in the mixture, in [0, 1].
    """
    if beta in (0, 1):
        return reverse_kl(log_p, log_q) if beta else forward_kl(log_p, log_q)
    log_m = log_mixture(log_q, log_p, beta)
    return beta * forward_kl(log_p, log_m) + (1 - beta) * forward_kl(log_q, log_m)


def skew_forward_kl(log_p: Tensor, log_q: Tensor, skew: float = 0.1) -> Tensor:
    """Return KL(p || skew p + (1 - skew) q) over the last axis, for ``skew`` in [0, 1]."""
    return forward_kl(log_p, log_mixture(log_q, log_p, skew))


def skew_reverse_kl(log_p: Tensor, log_q: Tensor, skew: float = 0.1) -> Tensor:
    """Return KL(q || (1 - skew) p + skew q) over the last axis, for ``skew`` in [0, 1]."""
    return forward_kl(log_q, log_mixture(log_p, log_q, skew))


@register("generalized_jsd")
class GeneralizedJSDLoss(DivergenceLoss):
    """Generalised Jensen-Shannon divergence: v = b KL(p || M) + (1 - b) KL(q || M), M = (1 - b) q + b p.

    Inputs and errors as in ``DivergenceLoss``. In nats per token, at least 0, 0 exactly where teacher p = student q; for
    b inside (0, 1) at most -b log b - (1 - b) log(1 - b), log 2 at b = 1/2, where it is symmetric. Exchanging p and q
    together with b and 1 - b changes nothing. The two end points are ``ForwardKLLoss`` (0) and ``ReverseKLLoss`` (1),
    which the formula does not tend to: near them it tends to 0, so the value jumps.

    Config: ``beta`` b (0.5, in [0, 1]), the weight of the *teacher* in M, as in TRL's GKD and Liger; DistiLLM's
    ``js_distance`` takes that of the student, b = 1 - lam. ``temperature`` (1, above 0; TRL's GKD has 0.9) without factor
    T^2.

    Source: arXiv 2306.13649, section 2 (generalised JSD).
    """

    contract = refine(
        DivergenceLoss.contract,
        options={
            **DivergenceLoss.contract.options,
            "beta": Option(values=(0.0, 0.1, 0.5, 1.0), reduces_to={0.0: "forward_kl", 1.0: "reverse_kl"}),
        },
    )
    beta = Setting(0.5, least=0.0, most=1.0)

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        if 0 < self.beta < 1:
            self.contract = refine(self.contract, upper_bound=_entropy(self.beta))

    def divergence(self, log_p: Tensor, log_q: Tensor, /) -> Tensor:
        return generalized_jsd(log_p, log_q, self.beta)


class SkewLoss(DivergenceLoss):
    """A divergence whose second argument has a share ``skew`` of the first mixed in; at most -log skew.

    Config: ``skew`` (0.1, in [0, 1]); ``temperature`` (1, above 0).
    """

    skew = Setting(0.1, least=0.0, most=1.0)

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        if self.skew > 0:
            self.contract = refine(self.contract, upper_bound=-math.log(self.skew))


SKEWS: Final = (0.0, 0.1, 0.5)


@register("skew_forward_kl")
class SkewForwardKLLoss(SkewLoss):
    """Skewed forward KL: v = KL(p || s p + (1 - s) q), with teacher p and student q.

    Inputs and errors as in ``DivergenceLoss``. In nats per token, between 0, at p = q, and -log s: finite even where the
    student has probability 0, unlike ``ForwardKLLoss``, which it is for s = 0. With s = 1 there is nothing left to learn:
    value and gradient are 0.

    Config: ``skew`` s (0.1, in [0, 1]); ``temperature`` (1, above 0); ``forward_part`` (``"kl"``; ``"cross_entropy"``, DistiLLM
    ``skewed_forward_kl``: without sum p log p, of a value larger by H(p) and the same gradient; ``SoftCELoss`` for s = 0).

    Source: arXiv 2402.03898, section 3.1.
    """

    contract = refine(
        DivergenceLoss.contract,
        options={
            **DivergenceLoss.contract.options,
            "skew": Option(values=SKEWS, reduces_to={0.0: "forward_kl"}),
            "forward_part": Option(values=FORWARD_PARTS),
        },
        exempt=VALUE_ALONE,
    )
    forward_part = Setting("kl", choices=FORWARD_PARTS)

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        if self.forward_part == "cross_entropy":
            skew = Option(values=SKEWS, reduces_to={0.0: "soft_ce"})
            options = {**self.contract.options, "skew": skew}
            self.contract = refine(self.contract, upper_bound=math.inf, options=options)

    def divergence(self, log_p: Tensor, log_q: Tensor, /) -> Tensor:
        v = skew_forward_kl(log_p, log_q, self.skew)
        return v if self.forward_part == "kl" else v + soft_ce(log_p, log_p)


@register("skew_reverse_kl")
class SkewReverseKLLoss(SkewLoss):
    """Skewed reverse KL: v = KL(q || (1 - s) p + s q), with teacher p and student q.

    Inputs and errors as in ``DivergenceLoss``. In nats per token, between 0, at p = q, and -log s: finite even where the
    teacher has probability 0, unlike ``ReverseKLLoss``, which it is for s = 0. The student receives gradient through the
    mixture too. With s = 1 value and gradient are 0.

    Config: ``skew`` s (0.1, in [0, 1]); ``temperature`` (1, above 0).

    Source: arXiv 2402.03898, section 3.1.
    """

    contract = refine(
        DivergenceLoss.contract,
        options={**DivergenceLoss.contract.options, "skew": Option(values=SKEWS, reduces_to={0.0: "reverse_kl"})},
    )
    strict_config = True

    def divergence(self, log_p: Tensor, log_q: Tensor, /) -> Tensor:
        return skew_reverse_kl(log_p, log_q, self.skew)


def _entropy(beta: float) -> float:
    return -beta * math.log(beta) - (1 - beta) * math.log1p(-beta)
