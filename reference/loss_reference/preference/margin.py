"""Other shapes for the margin of a pair: hinge, square, length-normalised, and one found by search."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from loss_reference.contract import Option
from loss_reference.interface import Batch, Outputs
from loss_reference.preference.dpo import dpo, sequence_log_ratio
from loss_reference.preference.layout import ROLLED_REFERENCE, ReferencedPairsLoss
from loss_reference.preference.pairwise import BETA, PairLoss, pair_contract
from loss_reference.registry import register
from loss_reference.settings import Setting
from loss_reference.token_level import refine

__all__ = [
    "MARGIN_LOSSES",
    "DPONormLoss",
    "DiscoPOPLoss",
    "HingeDPOLoss",
    "IPOLoss",
    "discopop",
    "hinge_dpo",
    "ipo",
    "margin_loss",
]

MARGIN_LOSSES: Final = ("sigmoid", "hinge", "ipo")


def hinge_dpo(delta: Tensor, beta: float = 0.1) -> Tensor:
    """Return max(0, 1 - beta delta), one term per pair; delta = h_w - h_l [N], beta above 0."""
    return F.relu(1 - beta * delta)


def ipo(delta: Tensor, beta: float = 0.1) -> Tensor:
    """Return (delta - 1 / (2 beta))^2, one term per pair; delta = h_w - h_l [N], beta above 0."""
    return (delta - 1 / (2 * beta)) ** 2


def margin_loss(delta: Tensor, loss_type: str, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """Return the term of ``cdpo``, ``hinge_dpo`` or ``ipo`` at delta [N]; the smoothing belongs to the first."""
    if loss_type == "sigmoid":
        return dpo(delta, beta, label_smoothing)
    return (ipo if loss_type == "ipo" else hinge_dpo)(delta, beta)


def discopop(delta: Tensor, beta: float = 0.1, tau: float = 0.05) -> Tensor:
    """Return -(1 - w) log sigma(x) + w exp(-x) with w = sigma(x / tau), x = beta delta, one term per pair.

    The second term is formed as exp(log w - x): w alone underflows where exp(-x) overflows.

    Args:
        delta: h_w - h_l [N], in nats.
        beta: strength of the pull towards the reference, above 0.
        tau: width of the blend in (0, 1]; above 1 the exponential term would win for x -> -inf.
    """
    x = beta * delta
    lost = x == -torch.inf  # there w is 0, and both terms would be of 0 times inf
    blended = x.masked_fill(lost, 0.0)
    w_not, log_w = torch.sigmoid(-blended / tau), F.logsigmoid(blended / tau)
    return torch.where(lost, -F.logsigmoid(x), -w_not * F.logsigmoid(blended) + torch.exp(log_w - blended))


@register("hinge_dpo")
class HingeDPOLoss(PairLoss):
    """Hinge on the DPO margin (RSO): l = max(0, 1 - x), x = beta (h_w - h_l).

    Inputs and errors as in ``PairLoss``. At least 0, 1 at policy = reference. dl/dx = -1 below x = 1, and 0 from there.

    Config: ``beta`` (0.1, above 0; torchtune's ``gamma``).

    Source: arXiv 2309.06657.
    """

    contract = pair_contract(beta=BETA)
    beta = Setting(0.1, above=0.0)

    def terms(self, h_w: Tensor, h_l: Tensor, /) -> Tensor:
        return hinge_dpo(h_w - h_l, self.beta)


@register("ipo")
class IPOLoss(PairLoss):
    """IPO: l = (D - 1 / (2 beta))^2, D = h_w - h_l.

    Inputs and errors as in ``PairLoss``. At least 0, reached exactly at D = 1 / (2 beta); 1 / (4 beta^2) at policy =
    reference. dl/dD = 2 (D - 1 / (2 beta)): a margin that is too large is pulled back.

    Config: ``beta`` (0.1, above 0; the paper's tau); ``average_log_probs`` (False, eq. 17 to the letter; True divides
    each h by its length, as TRL does).

    Source: arXiv 2310.12036, eq. 17.
    """

    contract = pair_contract(direction={}, beta=BETA, average_log_probs=Option(values=(False, True)))
    beta = Setting(0.1, above=0.0)
    average_log_probs = Setting(False)

    def scores(self, batch: Batch, model_outputs: Outputs) -> tuple[Tensor, Tensor]:
        return sequence_log_ratio(batch, model_outputs, self.average_log_probs)

    def terms(self, h_w: Tensor, h_l: Tensor, /) -> Tensor:
        return ipo(h_w - h_l, self.beta)


@register("dpo_norm")
class DPONormLoss(ReferencedPairsLoss, PairLoss):
    """Length-normalised DPO: l = -log sigma(beta (h_w / n_w - h_l / n_l)), n the number of trained tokens.

    Inputs and errors as in ``PairLoss``. At least 0, log 2 at policy = reference; ``dpo`` when every answer is one token
    long, and ``dpo`` with beta / n when all have n. Every token of a row receives the same gradient.

    Config: ``beta`` (0.1, above 0; Open-Instruct uses 5); ``rolled_reference`` (False; True for the reference that NeMo RL
    hands its ``DPOLossFn``, rolled by one token, see ``DPOLoss``).

    Terms: ``dpo`` of the means.

    Source: arXiv 2411.15124; TRL ``sigmoid_norm``, NeMo RL ``preference_average_log_probs``.
    """

    contract = pair_contract(facts={"length_normalized": True}, beta=BETA, rolled_reference=ROLLED_REFERENCE)
    beta = Setting(0.1, above=0.0)

    def scores(self, batch: Batch, model_outputs: Outputs) -> tuple[Tensor, Tensor]:
        return sequence_log_ratio(batch, model_outputs, average=True)

    def terms(self, h_w: Tensor, h_l: Tensor, /) -> Tensor:
        return dpo(h_w - h_l, self.beta)


@register("discopop")
class DiscoPOPLoss(PairLoss):
    """DiscoPOP: l = -(1 - w) log sigma(x) + w exp(-x), w = sigma(x / tau), x = beta (h_w - h_l).

    Inputs and errors as in ``PairLoss``. At least 0, (1 + log 2) / 2 at policy = reference. Not convex and not
    monotone: around x = 0 it climbs from the logistic to the exponential branch, for tau below
    0.1. The gradient flows through w too.

    Config: ``beta`` (0.1, above 0); ``tau`` (0.05, above 0, at most 1).

    Source: arXiv 2406.08414.
    """

    contract = pair_contract(direction={}, beta=BETA, tau=Option(values=(0.05, 1.0)))
    beta = Setting(0.1, above=0.0)
    tau = Setting(0.05, above=0.0, most=1.0)

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        # The slope at x = 0 is (1 - log 2) / (4 tau) - 3/4, and the climb ends within some 3 tau: a batch meets it there.
        if (1 - math.log(2)) / (4 * self.tau) > 1 and 3 * self.tau > self.beta:
            reason = "around policy = reference it climbs from one branch to the other"
            self.contract = refine(self.contract, exempt={**self.contract.exempt, "wanted_direction": reason})

    def terms(self, h_w: Tensor, h_l: Tensor, /) -> Tensor:
        return discopop(h_w - h_l, self.beta, self.tau)
