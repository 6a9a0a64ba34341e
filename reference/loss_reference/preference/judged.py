"""Preference losses whose pairs were judged: which answer won, or how likely it is to win."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from loss_reference.contract import Contract, Field, Option
from loss_reference.interface import Batch, LossFunction, Outputs
from loss_reference.logprobs import trained_logprobs
from loss_reference.pairs import mean_of_pairs, split_pairs
from loss_reference.parts import with_part
from loss_reference.preference.dpo import dpo, sequence_log_ratio
from loss_reference.preference.layout import PairedLoss
from loss_reference.preference.margin import ipo
from loss_reference.preference.pairwise import (
    BETA,
    active_pairs,
    pair_contract,
    row_constant,
    sequence_logprob,
    token_log_ratio,
)
from loss_reference.reduction import mean_of_rows, row_weights
from loss_reference.registry import register
from loss_reference.settings import Setting

__all__ = [
    "NashMDLoss",
    "OnlineDPOLoss",
    "SPPOSoftLoss",
    "XPOLoss",
    "nash_md",
    "online_dpo",
    "sppo_soft",
    "winner_margin",
    "xpo",
]

LOSS_TYPES: Final = ("sigmoid", "ipo")
LOSS_TYPE: Final = Option(values=LOSS_TYPES)
PROBABILITY: Final = {"preference_probability": Field("probabilities", "B")}


def winner_margin(h_first: Tensor, h_second: Tensor, first_wins: Tensor) -> Tensor:
    """Return h of the winner minus h of the loser [N], from the h of the first and of the second row and a bool, all [N]."""
    return torch.where(first_wins, h_first - h_second, h_second - h_first)


def online_dpo(
    h_first: Tensor, h_second: Tensor, first_wins: Tensor, beta: float = 0.1, loss_type: str = "sigmoid"
) -> Tensor:
    """Return -log sigma(beta D), or (D - 1 / (2 beta))^2 for ``"ipo"``, D = h of the winner minus h of the loser.

    Args:
        h_first, h_second: log-ratios of the first and of the second row of each pair [N], in nats.
        first_wins: bool [N].
        beta: strength of the pull towards the reference, above 0.
        loss_type: ``"sigmoid"`` or ``"ipo"``.
    """
    D = winner_margin(h_first, h_second, first_wins)
    return dpo(D, beta) if loss_type == "sigmoid" else ipo(D, beta)


def xpo(judged: Tensor, p_ref: Tensor, alpha: float = 1e-5) -> Tensor:
    """Return l + alpha p_ref, one term per pair.

    Args:
        judged: l [N], the term of ``online_dpo``.
        p_ref: log-probability the policy gives the reference's sample [N], summed over its tokens, in nats.
        alpha: weight of the optimism, at least 0.
    """
    return with_part(judged, alpha, p_ref)


def sppo_soft(h_w: Tensor, h_l: Tensor, probability: Tensor, beta: float = 0.1) -> Tensor:
    """Return (h_w - (P - 1/2) / beta)^2 + (h_l + (P - 1/2) / beta)^2 from log-ratios and probabilities P [N]; beta above 0."""
    target = (probability - 0.5) / beta
    return (h_w - target) ** 2 + (h_l + target) ** 2


def nash_md(lp: Tensor, log_ratio: Tensor, probability: Tensor, beta: float = 0.1) -> Tensor:
    """Return beta sum_t sg(lp - lp_ref) lp - (P - 1/2) sum_t lp, one term per row, sg(.) the stop-gradient.

    Args:
        lp: log-probabilities [B, S-1], 0 where nothing is trained.
        log_ratio: lp - lp_ref [B, S-1], 0 where nothing is trained.
        probability: P [B], how likely the answer is to win.
        beta: strength of the pull towards the reference, above 0.
    """
    return beta * (log_ratio.detach() * lp).sum(dim=1) - (probability - 0.5) * lp.sum(dim=1)


@register("online_dpo")
class OnlineDPOLoss(PairedLoss):
    """Online DPO: l = -log sigma(beta D), D = h of the winner minus h of the loser, two samples of the policy and a judge.

    Reads what ``PairLoss`` reads, and ``labels`` [B]: the first row of a pair wins where its label is not 0, the second
    where it is; the label of the second row is not read. Errors as in ``PairLoss``. At least 0; log 2 at policy = reference,
    which it is when the samples are fresh.

    Config: ``beta`` (0.1, above 0); ``loss_type`` (``"sigmoid"``; ``"ipo"``: l = (D - 1 / (2 beta))^2, on sums of
    log-ratios); ``pair_layout`` as in ``PairLoss``.

    Source: arXiv 2402.04792.
    """

    contract = pair_contract(direction={}, beta=BETA, loss_type=LOSS_TYPE)
    beta = Setting(0.1, above=0.0)
    loss_type = Setting("sigmoid", choices=LOSS_TYPES)

    def paired_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        h, w = sequence_log_ratio(batch, model_outputs)
        return mean_of_pairs(self.judged(batch, h, w), w, batch)

    def judged(self, batch: Batch, h: Tensor, w: Tensor) -> Tensor:
        """Return [B/2] terms of the winner against the loser, from log-ratios h and weights w [B]."""
        first_wins, _ = split_pairs(row_constant(batch, "labels", h) != 0)
        return online_dpo(*active_pairs(h, w), first_wins, self.beta, self.loss_type)


@register("xpo")
class XPOLoss(OnlineDPOLoss):
    """XPO: l = -log sigma(beta D) + alpha p_ref, D = h of the winner minus h of the loser, p_ref = sum of lp of row 2i+1.

    Row 2i is a sample of the policy, row 2i+1 one of the reference; the policy's wins where ``labels`` [B] of its row is not
    0. Inputs and errors as in ``OnlineDPOLoss``. Without a lower bound: alpha p_ref makes the reference's sample less likely,
    an optimism that explores. log 2 + alpha p_ref at policy = reference; ``online_dpo`` for alpha = 0.

    Config: ``beta`` (0.1, above 0); ``alpha`` (1e-5, at least 0); ``loss_type`` (``"sigmoid"``; ``"ipo"``: (D - 1 / (2 beta))^2
    in place of the first term, on sums of log-ratios as in TRL).

    Source: arXiv 2405.21046.
    """

    contract = pair_contract(
        direction={"alpha": -1},
        facts={"lower_bound": -math.inf},
        beta=BETA,
        alpha=Option(values=(0.0, 1e-5, 0.1), reduces_to={0.0: "online_dpo"}),
        loss_type=LOSS_TYPE,
    )
    beta = Setting(0.1, above=0.0)
    alpha = Setting(1e-5, least=0.0)

    def paired_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        h, w = sequence_log_ratio(batch, model_outputs)
        _, p_ref = active_pairs(sequence_logprob(batch, model_outputs)[0], w)
        return mean_of_pairs(xpo(self.judged(batch, h, w), p_ref, self.alpha), w, batch)


@register("sppo_soft")
class SPPOSoftLoss(PairedLoss):
    """SPPO with win probabilities P: l = (h_w - (P - 1/2) / beta)^2 + (h_l + (P - 1/2) / beta)^2.

    Reads what ``PairLoss`` reads, and ``preference_probability`` [B]: the chance, from 0 to 1, that the chosen row wins, read
    at the chosen row. Errors as in ``PairLoss``. At least 0, reached at h_w = -h_l = (P - 1/2) / beta, which is policy =
    reference for P = 1/2; ``sppo_hard`` for P = 1. dl/dh_w = 2 (h_w - (P - 1/2) / beta).

    Config: ``beta`` (0.1, above 0; the paper's 1 / eta); ``pair_layout`` as in ``PairLoss``.

    Source: arXiv 2405.00675.
    """

    contract = pair_contract(direction={}, facts={"fields": PROBABILITY}, beta=BETA)
    beta = Setting(0.1, above=0.0)

    def paired_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        h, w = sequence_log_ratio(batch, model_outputs)
        probability, _ = active_pairs(row_constant(batch, "preference_probability", h), w)
        return mean_of_pairs(sppo_soft(*active_pairs(h, w), probability, self.beta), w, batch)


@register("nash_md")
class NashMDLoss(LossFunction):
    """Nash-MD: l = beta sum_t sg(lp - lp_ref) lp - (P - 1/2) sum_t lp, mean over rows, sg(.) the stop-gradient.

    Reads ``next_token_logprobs`` [B, S-1] (or ``logits`` [B, S, V] and ``input_ids``), ``reference_policy_logprobs``
    [B, S], ``token_mask`` [B, S], ``preference_probability`` [B]: the chance, from 0 to 1, that the row, a sample of the
    policy, wins against one of the mixture of policy and reference; optional ``sample_mask`` [B], ``global_valid_seqs``. A
    policy gradient with reward P - 1/2 and a KL penalty per token: dl/dlp_t = beta (lp_t - lp_ref_t) - (P - 1/2). Value
    and gradient are 0 at policy = reference and P = 1/2; the value has no lower bound.

    Config: ``beta`` (0.1, above 0).

    Raises:
        KeyError: no ``preference_probability``, or no reference policy.
        ValueError: shapes that do not belong together, a token id outside the vocabulary.
        ConfigError: a setting out of range or unknown.

    Source: arXiv 2312.00886.
    """

    contract = Contract(
        family="preference",
        level="sequence",
        normalizer="global",
        length_normalized=False,
        lower_bound=-math.inf,
        surrogate_gradient=True,
        options={"beta": BETA},
        fields=PROBABILITY,
    )
    beta = Setting(0.1, above=0.0)

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        lp, _ = trained_logprobs(batch, model_outputs)
        log_ratio, _ = token_log_ratio(batch, model_outputs)
        w = row_weights(batch, lp)
        probability = torch.where(w != 0, row_constant(batch, "preference_probability", lp), 0.5)
        return mean_of_rows(nash_md(lp, log_ratio, probability, self.beta), w, batch)
