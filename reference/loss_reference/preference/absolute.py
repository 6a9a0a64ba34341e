"""Losses that anchor each answer by itself: shifting both log-ratios of a pair changes them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from loss_reference.contract import Option
from loss_reference.preference.dpo import dpo
from loss_reference.preference.pairwise import BETA, PairLoss, pair_contract
from loss_reference.registry import register
from loss_reference.settings import Setting

__all__ = [
    "APODownLoss",
    "APOZeroLoss",
    "BCOPairLoss",
    "CalDPOLoss",
    "DPOPLoss",
    "NCAPairLoss",
    "SPPOHardLoss",
    "apo_down",
    "apo_zero",
    "bco_pair",
    "cal_dpo",
    "dpop",
    "nca_pair",
    "sppo_hard",
]


def nca_pair(r_w: Tensor, r_l: Tensor) -> Tensor:
    """Return -log sigma(r_w) - log sigma(-r_w) / 2 - log sigma(-r_l) / 2, with r = beta h [N]."""
    return -F.logsigmoid(r_w) - 0.5 * F.logsigmoid(-r_w) - 0.5 * F.logsigmoid(-r_l)


def bco_pair(r_w: Tensor, r_l: Tensor) -> Tensor:
    """Return -log sigma(r_w) - log sigma(-r_l), with r = beta h [N]."""
    return -F.logsigmoid(r_w) - F.logsigmoid(-r_l)


def sppo_hard(h_w: Tensor, h_l: Tensor, beta: float = 0.1) -> Tensor:
    """Return (h_w - 1 / (2 beta))^2 + (h_l + 1 / (2 beta))^2 from log-ratios h [N]; beta above 0."""
    return (h_w - 1 / (2 * beta)) ** 2 + (h_l + 1 / (2 * beta)) ** 2


def apo_zero(r_w: Tensor, r_l: Tensor) -> Tensor:
    """Return 1 - sigma(r_w) + sigma(r_l), with r = beta h [N]; 1 - sigma(r) is formed as sigma(-r)."""
    return torch.sigmoid(-r_w) + torch.sigmoid(r_l)


def apo_down(r_w: Tensor, r_l: Tensor) -> Tensor:
    """Return sigma(r_w) + 1 - sigma(r_w - r_l), with r = beta h [N]; 1 - sigma(x) is formed as sigma(-x)."""
    return torch.sigmoid(r_w) + torch.sigmoid(r_l - r_w)


def cal_dpo(h_w: Tensor, h_l: Tensor, beta: float = 0.1) -> Tensor:
    """Return -log sigma(h_w - h_l) + (h_w - 1 / (2 beta))^2 + (h_l + 1 / (2 beta))^2 from log-ratios h [N]."""
    return -F.logsigmoid(h_w - h_l) + sppo_hard(h_w, h_l, beta)


def dpop(h_w: Tensor, h_l: Tensor, beta: float = 0.3, lambda_: float = 50.0) -> Tensor:
    """Return -log sigma(beta (h_w - h_l - lambda max(0, -h_w))) from log-ratios h [N]; beta above 0, lambda at least 0."""
    return dpo(h_w - h_l - lambda_ * F.relu(-h_w) if lambda_ > 0 else h_w - h_l, beta)


@register("nca_pair")
class NCAPairLoss(PairLoss):
    """NCA on pairs: l = -log sigma(r_w) - log sigma(-r_w) / 2 - log sigma(-r_l) / 2, r = beta h.

    Inputs and errors as in ``PairLoss``. Above 1.5 log 3 - log 2, approached at r_w = log 2 and r_l -> -inf; 2 log 2 at
    policy = reference. dl/dr_w = 1.5 sigma(r_w) - 1, dl/dr_l = sigma(r_l) / 2.

    Config: ``beta`` (0.1, above 0).

    Source: arXiv 2402.05369.
    """

    contract = pair_contract(direction={"rejected_scores": +1}, beta=BETA)
    beta = Setting(0.1, above=0.0)

    def terms(self, h_w: Tensor, h_l: Tensor, /) -> Tensor:
        return nca_pair(self.beta * h_w, self.beta * h_l)


@register("bco_pair")
class BCOPairLoss(PairLoss):
    """BCO on pairs: l = -log sigma(r_w) - log sigma(-r_l), r = beta h.

    Inputs and errors as in ``PairLoss``. At least 0, 2 log 2 at policy = reference. dl/dr_w = -sigma(-r_w),
    dl/dr_l = sigma(r_l).

    Config: ``beta`` (0.1, above 0).

    Source: arXiv 2404.04656, without the running reward shift of the unpaired loss.
    """

    contract = pair_contract(beta=BETA)
    beta = Setting(0.1, above=0.0)

    def terms(self, h_w: Tensor, h_l: Tensor, /) -> Tensor:
        return bco_pair(self.beta * h_w, self.beta * h_l)


@register("sppo_hard")
class SPPOHardLoss(PairLoss):
    """SPPO with hard labels: l = (h_w - 1 / (2 beta))^2 + (h_l + 1 / (2 beta))^2.

    Inputs and errors as in ``PairLoss``. At least 0, reached at h_w = -h_l = 1 / (2 beta); 1 / (2 beta^2) at policy =
    reference. Not multiplied by beta^2. dl/dh_w = 2 (h_w - 1 / (2 beta)).

    Config: ``beta`` (0.1, above 0; the paper's 1 / eta).

    Source: arXiv 2405.00675.
    """

    contract = pair_contract(direction={}, beta=BETA)
    beta = Setting(0.1, above=0.0)

    def terms(self, h_w: Tensor, h_l: Tensor, /) -> Tensor:
        return sppo_hard(h_w, h_l, self.beta)


@register("apo_zero")
class APOZeroLoss(PairLoss):
    """APO-zero: l = 1 - sigma(r_w) + sigma(r_l), r = beta h.

    Inputs and errors as in ``PairLoss``. Between 0 and 2, 1 at policy = reference (the paper leaves out the 1). The
    gradient vanishes for large |r|: dl/dr_w = -sigma(r_w) sigma(-r_w).

    Config: ``beta`` (0.1, above 0).

    Source: arXiv 2408.06266.
    """

    contract = pair_contract(facts={"upper_bound": 2.0}, beta=BETA)
    beta = Setting(0.1, above=0.0)

    def terms(self, h_w: Tensor, h_l: Tensor, /) -> Tensor:
        return apo_zero(self.beta * h_w, self.beta * h_l)


@register("apo_down")
class APODownLoss(PairLoss):
    """APO-down: l = sigma(r_w) + 1 - sigma(r_w - r_l), r = beta h.

    Inputs and errors as in ``PairLoss``. Between 0 and 2, 1 at policy = reference. It lowers the chosen answer too, and
    the rejected one more: for a model that is better than both.

    Config: ``beta`` (0.1, above 0).

    Source: arXiv 2408.06266.
    """

    contract = pair_contract(direction={"rejected_scores": +1}, facts={"upper_bound": 2.0}, beta=BETA)
    beta = Setting(0.1, above=0.0)

    def terms(self, h_w: Tensor, h_l: Tensor, /) -> Tensor:
        return apo_down(self.beta * h_w, self.beta * h_l)


@register("cal_dpo")
class CalDPOLoss(PairLoss):
    """Cal-DPO: l = -log sigma(h_w - h_l) + (h_w - 1 / (2 beta))^2 + (h_l + 1 / (2 beta))^2.

    Inputs and errors as in ``PairLoss``. Above 0; log 2 + 1 / (2 beta^2) at policy = reference. There is no beta inside
    the log-sigmoid: the squares give the log-ratios their scale.

    Config: ``beta`` (0.1, above 0).

    Source: arXiv 2412.14516.
    """

    contract = pair_contract(direction={}, beta=BETA)
    beta = Setting(0.1, above=0.0)

    def terms(self, h_w: Tensor, h_l: Tensor, /) -> Tensor:
        return cal_dpo(h_w, h_l, self.beta)


@register("dpop")
class DPOPLoss(PairLoss):
    """DPO-Positive: l = -log sigma(beta (h_w - h_l - lambda max(0, -h_w))).

    Inputs and errors as in ``PairLoss``. At least 0, log 2 at policy = reference; ``dpo`` with the same beta where
    h_w >= 0 and for lambda = 0. The penalty, inside the log-sigmoid, keeps the chosen answer from becoming less likely
    than under the reference.

    Config: ``beta`` (0.3, above 0); ``lambda_`` (50, at least 0).

    Source: arXiv 2402.13228.
    """

    contract = pair_contract(
        direction={"chosen_scores": -1, "rejected_scores": +1, "lambda_": +1},
        beta=Option(values=(0.1, 0.3, 1.0)),
        lambda_=Option(values=(0.0, 5.0, 50.0), reduces_to={0.0: "dpo"}),
    )
    beta = Setting(0.3, above=0.0)
    lambda_ = Setting(50.0, least=0.0)

    def terms(self, h_w: Tensor, h_l: Tensor, /) -> Tensor:
        return dpop(h_w, h_l, self.beta, self.lambda_)
