"""DPO when a share of the labels is wrong: conservative, robust, and exact preference optimisation."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from loss_reference.contract import Option
from loss_reference.preference.bernoulli import bernoulli_kl
from loss_reference.preference.dpo import dpo
from loss_reference.preference.pairwise import BETA, PairLoss, pair_contract
from loss_reference.registry import register
from loss_reference.settings import Setting

__all__ = ["CDPOLoss", "EXOPairLoss", "RobustDPOLoss", "exo_pair", "robust_dpo"]


def robust_dpo(delta: Tensor, beta: float = 0.1, label_smoothing: float = 0.1) -> Tensor:
    """Return [-(1 - e) log sigma(beta delta) + e log sigma(-beta delta)] / (1 - 2 e), one term per pair.

    Args:
        delta: h_w - h_l [N], in nats.
        beta: strength of the pull towards the reference, above 0.
        label_smoothing: e in [0, 1/2), the probability that a pair is labelled the wrong way round.
    """
    x, e = beta * delta, label_smoothing
    if e == 0:
        return dpo(delta, beta)
    return (-(1 - e) * F.logsigmoid(x) + e * F.logsigmoid(-x)) / (1 - 2 * e)


def exo_pair(delta: Tensor, beta: float = 0.1, label_smoothing: float = 1e-3) -> Tensor:
    """Return KL(Bern(sigma(beta delta)), Bern(1 - e)), one term per pair.

    Args:
        delta: h_w - h_l [N], in nats.
        beta: strength of the pull towards the reference, above 0.
        label_smoothing: e in (0, 1/2], the probability left to the rejected answer.
    """
    return bernoulli_kl(beta * delta, math.log1p(-label_smoothing), math.log(label_smoothing))


@register("cdpo")
class CDPOLoss(PairLoss):
    """Conservative DPO: l = -(1 - e) log sigma(x) - e log sigma(-x), x = beta (h_w - h_l).

    Inputs and errors as in ``PairLoss``. At least the entropy of e, reached at x = log((1 - e) / e); log 2 at policy =
    reference; e = 0 is ``dpo``. dl/dx = sigma(x) - (1 - e), so a pair beyond the minimum is pulled back.

    Config: ``beta`` (0.1, above 0); ``label_smoothing`` e (0.1, at most 1/2). TRL and Liger mean ``robust_dpo`` by
    that key; OpenRLHF, torchtune and Open-Instruct mean this.

    Terms: ``dpo`` with its ``label_smoothing``.

    Source: E. Mitchell, "A note on DPO with noisy preferences".
    """

    contract = pair_contract(
        direction={}, beta=BETA, label_smoothing=Option(values=(0.0, 0.1, 0.5), reduces_to={0.0: "dpo"})
    )
    beta = Setting(0.1, above=0.0)
    label_smoothing = Setting(0.1, least=0.0, most=0.5)

    def terms(self, h_w: Tensor, h_l: Tensor, /) -> Tensor:
        return dpo(h_w - h_l, self.beta, self.label_smoothing)


@register("robust_dpo")
class RobustDPOLoss(PairLoss):
    """Robust DPO: l = [-(1 - e) log sigma(x) + e log sigma(-x)] / (1 - 2 e), x = beta (h_w - h_l).

    Inputs and errors as in ``PairLoss``. Unbounded below for e > 0: the slope tends to -e / (1 - 2 e). log 2 at policy =
    reference; e = 0 is ``dpo``. Its mean over labels flipped with probability e is ``dpo`` on the clean labels.
    dl/dx = -[(1 - e) sigma(-x) + e sigma(x)] / (1 - 2 e), below 0 everywhere.

    Config: ``beta`` (0.1, above 0); ``label_smoothing`` e (0.1, below 1/2).

    Source: arXiv 2403.00409.
    """

    contract = pair_contract(
        facts={"lower_bound": -math.inf},
        beta=BETA,
        label_smoothing=Option(values=(0.0, 0.1, 0.4), reduces_to={0.0: "dpo"}),
    )
    beta = Setting(0.1, above=0.0)
    label_smoothing = Setting(0.1, least=0.0, below=0.5)

    def terms(self, h_w: Tensor, h_l: Tensor, /) -> Tensor:
        return robust_dpo(h_w - h_l, self.beta, self.label_smoothing)


@register("exo_pair")
class EXOPairLoss(PairLoss):
    """EXO on pairs: l = KL(Bern(sigma(x)), Bern(1 - e)), x = beta (h_w - h_l).

    Inputs and errors as in ``PairLoss``. At least 0, reached exactly at x = log((1 - e) / e);
    -log 2 - log(e (1 - e)) / 2 at policy = reference. dl/dx = sigma(x) sigma(-x) (x - log((1 - e) / e)).

    Config: ``beta`` (0.1, above 0); ``label_smoothing`` e (0.001, above 0 because the KL to a certain label is
    infinite, at most 1/2).

    Source: arXiv 2402.00856.
    """

    contract = pair_contract(direction={}, beta=BETA, label_smoothing=Option(values=(1e-3, 0.1, 0.5)))
    beta = Setting(0.1, above=0.0)
    label_smoothing = Setting(1e-3, above=0.0, most=0.5)

    def terms(self, h_w: Tensor, h_l: Tensor, /) -> Tensor:
        return exo_pair(h_w - h_l, self.beta, self.label_smoothing)
