"""Preference losses without a reference policy, on the policy's own log-probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from loss_reference.contract import Option
from loss_reference.groups import mean_of_groups
from loss_reference.interface import Batch, Outputs
from loss_reference.logprobs import trained_logprobs
from loss_reference.pairs import mean_of_pairs
from loss_reference.parts import with_part
from loss_reference.preference.chosen_nll import NLL_AVERAGE, NLL_AVERAGES, ImitatingLoss
from loss_reference.preference.dpo import dpo
from loss_reference.preference.f_divergence import LARGEST_EXPONENT
from loss_reference.preference.groupwise import active_groups
from loss_reference.preference.pairwise import (
    BETA,
    MONOTONE,
    PairLoss,
    active_pairs,
    pair_contract,
    sequence_logprob,
    trained_lengths,
)
from loss_reference.reduction import row_weights
from loss_reference.registry import register
from loss_reference.relevance import unless
from loss_reference.settings import ConfigError, Setting
from loss_reference.token_level import refine

__all__ = ["AlphaPOLoss", "SLiCHFLoss", "SimPOLoss", "alpha_reward", "alphapo", "simpo", "slic_hf"]


def simpo(
    margin: Tensor,
    beta: float = 0.1,
    gamma: float = 0.5,
    label_smoothing: float = 0.0,
    nll_w: Tensor | None = None,
    nll_weight: float = 0.0,
) -> Tensor:
    """Return -(1 - e) log sigma(x) - e log sigma(-x) + c nll_w, x = beta margin - gamma, one term per pair.

    Args:
        margin: difference of the rewards of chosen and rejected answer [N], in SimPO their mean log-probability.
        beta: scale of the rewards, above 0.
        gamma: the margin asked for, at least 0; absolute, not a multiple of beta.
        label_smoothing: e in [0, 1/2], the probability that a pair is labelled the wrong way round.
        nll_w: what imitating the chosen answer costs [N], in nats; ``None``: nothing.
        nll_weight: c, at least 0.
    """
    preference = dpo(beta * margin - gamma, beta=1.0, label_smoothing=label_smoothing)
    return preference if nll_w is None else with_part(preference, nll_weight, nll_w)


def alpha_reward(p: Tensor, alpha: float = 0.25) -> Tensor:
    """Return (1 - exp(-alpha p)) / alpha, and its limit p for alpha = 0.

    Formed with expm1, accurate for small alpha; the exponent is clamped at 80 before it overflows.

    Args:
        p: log-probabilities [N], in nats.
        alpha: curvature; above 0 an unlikely answer is punished more than in proportion.
    """
    if alpha == 0:
        return p
    return -torch.expm1((-alpha * p).clamp(max=LARGEST_EXPONENT)) / alpha


def alphapo(p_w: Tensor, p_l: Tensor, beta: float = 0.1, alpha: float = 0.25, gamma: float = 0.5) -> Tensor:
    """Return -log sigma(beta (r_w - r_l) - gamma), r = (1 - exp(-alpha p)) / alpha, one term per pair.

    Args:
        p_w, p_l: mean log-probability of the tokens of the chosen and of the rejected answer [N], in nats.
        beta: scale of the rewards, above 0.
        alpha: curvature of the rewards, see ``alpha_reward``.
        gamma: the margin asked for, at least 0.
    """
    return simpo(alpha_reward(p_w, alpha) - alpha_reward(p_l, alpha), beta, gamma)


def slic_hf(
    p_w: Tensor, p_l: Tensor, delta: float = 1.0, p_target: Tensor | float = 0.0, lambda_: float = 0.0
) -> Tensor:
    """Return max(0, delta - p_w + p_l) - lambda p_target, one term per pair.

    Args:
        p_w, p_l: log-probabilities of the chosen and of the rejected answer, summed over their tokens [N], in nats.
        delta: the margin asked for, above 0, in nats.
        p_target: log-probability of the answer that is imitated, summed over its tokens [N].
        lambda_: weight of the imitation, at least 0.
    """
    violation = F.relu(delta - p_w + p_l)
    # A part of weight 0 is not taken: a model may find the target impossible.
    return violation if lambda_ == 0 else violation - lambda_ * p_target


@register("simpo")
class SimPOLoss(ImitatingLoss, PairLoss):
    """SimPO: l = -log sigma(beta (p_w - p_l) - gamma), p = mean of lp over the trained tokens of an answer.

    Inputs and errors as in ``PairLoss``, without a reference policy. At least 0, softplus(gamma) at equal p.

    Config: ``beta`` (0.1, above 0); ``gamma`` (0.5, at least 0; beta times Open-Instruct's ``gamma_beta_ratio``);
    ``label_smoothing`` e (0, at most 1/2: -(1 - e) log sigma(x) - e log sigma(-x) at that x, as in TRL and Liger);
    ``nll_weight`` (0, at least 0): adds ``nll_weight`` times the NLL of the chosen answer, averaged as ``nll_average`` says
    (see ``ImitatingLoss``). TRL (``cpo_alpha``) and Liger's module (``alpha``) add it with weight 1 unless told otherwise,
    averaged over ``"tokens"``.

    Source: arXiv 2405.14734.
    """

    contract = pair_contract(
        direction={**MONOTONE, "gamma": +1, "nll_weight": +1},
        facts={"length_normalized": True},
        beta=BETA,
        gamma=Option(values=(0.0, 0.5, 2.0)),
        label_smoothing=Option(values=(0.0, 0.1)),
        nll_weight=Option(values=(0.0, 1.0)),
        nll_average=NLL_AVERAGE,
    )
    beta = Setting(0.1, above=0.0)
    gamma = Setting(0.5, least=0.0)
    label_smoothing = Setting(0.0, least=0.0, most=0.5)
    nll_weight = Setting(0.0, least=0.0)
    nll_average = Setting("sequence", choices=NLL_AVERAGES, read_when=unless("nll_weight", 0))

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        if self.label_smoothing > 0:  # a margin that is too large is pulled back
            self.contract = refine(self.contract, direction={"nll_weight": +1})

    def scores(self, batch: Batch, model_outputs: Outputs) -> tuple[Tensor, Tensor]:
        return sequence_logprob(batch, model_outputs, average=True)

    def terms(self, p_w: Tensor, p_l: Tensor, /) -> Tensor:
        return simpo(p_w - p_l, self.beta, self.gamma, self.label_smoothing)

    def paired_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        if self.nll_weight == 0:
            return super().paired_loss(batch, model_outputs)
        lp, m = trained_logprobs(batch, model_outputs)
        w = row_weights(batch, lp)
        p = lp.sum(dim=1) / trained_lengths(m).clamp(min=1)
        (p_w, p_l), nll_w = active_pairs(p, w), self.chosen_nll(lp, m, batch)
        terms = simpo(p_w - p_l, self.beta, self.gamma, self.label_smoothing, nll_w, self.nll_weight)
        return mean_of_pairs(terms, w, batch)


@register("alphapo")
class AlphaPOLoss(PairLoss):
    """AlphaPO: l = -log sigma(beta (r_w - r_l) - gamma), r = (1 - exp(-alpha p)) / alpha, p the mean of lp.

    Inputs and errors as in ``PairLoss``, without a reference policy. At least 0, softplus(gamma) at equal p; alpha = 0 is
    ``simpo``. The gradient carries exp(-alpha p), 0 where that exponent is above 80.

    Config: ``beta`` (0.1, above 0); ``alpha`` (0.25); ``gamma`` (0.5, at least 0).

    Source: arXiv 2501.03884.
    """

    contract = pair_contract(
        direction={**MONOTONE, "gamma": +1},
        facts={"length_normalized": True},
        beta=BETA,
        alpha=Option(values=(-0.25, 0.0, 0.25), reduces_to={0.0: "simpo"}),
        gamma=Option(values=(0.0, 0.5, 2.0)),
    )
    beta = Setting(0.1, above=0.0)
    alpha = Setting(0.25)
    gamma = Setting(0.5, least=0.0)

    def scores(self, batch: Batch, model_outputs: Outputs) -> tuple[Tensor, Tensor]:
        return sequence_logprob(batch, model_outputs, average=True)

    def terms(self, p_w: Tensor, p_l: Tensor, /) -> Tensor:
        return alphapo(p_w, p_l, self.beta, self.alpha, self.gamma)


@register("slic_hf")
class SLiCHFLoss(PairLoss):
    """SLiC-HF: l = max(0, delta - p_w + p_l) - lambda p_target, p = sum of lp over the trained tokens of an answer.

    Inputs and errors as in ``PairLoss``, without a reference policy. At least 0, delta at equal p and lambda = 0.
    dl/dp_w = -1 inside the margin, 0 outside. With lambda above 0 the rows come in threes, (chosen, rejected, target): the
    target is the answer imitated, and a triple weighs the smallest of its rows' weights.

    Config: ``delta`` (1.0, above 0), the margin in nats of log-probability; ``lambda_`` (0, at least 0), the weight of the
    NLL of the target, a sum over its tokens.

    Raises:
        ConfigError: also ``pair_layout="halves"`` with ``lambda_`` above 0.

    Source: arXiv 2305.10425.
    """

    contract = pair_contract(
        direction={**MONOTONE, "delta": +1}, delta=Option(values=(0.1, 1.0, 10.0)), lambda_=Option(values=(0.0,))
    )
    delta = Setting(1.0, above=0.0)
    lambda_ = Setting(0.0, least=0.0)

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        if self.lambda_ == 0:
            return
        if self.pair_layout == "halves":
            raise ConfigError(
                f"{type(self).__name__}: pair_layout='halves' with lambda_={self.lambda_}; with a target, rows come in "
                "threes (chosen, rejected, target)"
            )
        # What lambda_ = 0 and halves want is pairs, not threes.
        on_threes = {
            "lambda_": Option(values=(self.lambda_, 2 * self.lambda_)),
            "pair_layout": Option((self.pair_layout,)),
        }
        self.contract = refine(self.contract, group_size=3, options={**self.contract.options, **on_threes})

    def paired_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        if self.lambda_ == 0:
            return super().paired_loss(batch, model_outputs)
        p, w = self.scores(batch, model_outputs)
        p_w, p_l, p_target = active_groups(p, w, 3).unbind(dim=1)
        return mean_of_groups(self.terms(p_w, p_l, p_target), w, batch, 3)

    def scores(self, batch: Batch, model_outputs: Outputs) -> tuple[Tensor, Tensor]:
        return sequence_logprob(batch, model_outputs)

    def terms(self, p_w: Tensor, p_l: Tensor, p_target: Tensor | float = 0.0, /) -> Tensor:
        return slic_hf(p_w, p_l, self.delta, p_target, self.lambda_)
