"""DPO that trusts a pair as far as the policy itself could have written it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from loss_reference.contract import Option
from loss_reference.interface import Batch, Outputs
from loss_reference.logprobs import token_constant
from loss_reference.pairs import mean_of_pairs
from loss_reference.preference.dpo import dpo
from loss_reference.preference.full_distribution import next_token_distribution, of_sampled
from loss_reference.preference.layout import PairedLoss
from loss_reference.preference.pairwise import BETA, active_pairs, pair_contract, trained_lengths
from loss_reference.reduction import keep_active, row_weights
from loss_reference.registry import register
from loss_reference.settings import Setting
from loss_reference.token_level import refine

__all__ = ["WPOLoss", "aligned_log_weight", "wpo"]


def aligned_log_weight(lp: Tensor, log_pi: Tensor) -> Tensor:
    """Return lp - log sum_v pi(v)^2: how likely a token is beside the tokens the policy itself would sample.

    Args:
        lp: log-probability of a token [...].
        log_pi: log-probabilities of the vocabulary at its position [..., V].
    """
    return lp - (2 * log_pi).logsumexp(dim=-1)


def wpo(delta: Tensor, weight: Tensor, beta: float = 0.1, label_smoothing: float = 0.0) -> Tensor:
    """Return -w ((1 - e) log sigma(beta delta) + e log sigma(-beta delta)), one term per pair.

    Args:
        delta: h_w - h_l [N], the log-ratio of the chosen minus that of the rejected sequence, in nats.
        weight: w of the pair [N], at least 0; 0 where one of its answers is impossible.
        beta: strength of the pull towards the reference, above 0.
        label_smoothing: e in [0, 1/2].
    """
    # An impossible answer weighs 0, by which its infinite term cannot be multiplied; the limit is 0.
    return weight * keep_active(dpo(delta, beta, label_smoothing), weight)


@register("wpo")
class WPOLoss(PairedLoss):
    """WPO: l = -w_w w_l log sigma(beta (h_w - h_l)), w = exp(mean over trained tokens of lp - log sum_v pi(v)^2), constant.

    Reads ``logits`` [B, S, V] and ``input_ids`` [B, S], whole distributions being needed, ``reference_policy_logprobs``
    [B, S], ``token_mask`` [B, S]; optional ``sample_mask`` [B], ``global_valid_seqs``. At least 0; w_w w_l log 2 at policy =
    reference; ``dpo`` where the policy is uniform, whose weights are 1. A weight is not clamped, and above 1 where the
    sampled tokens are likelier than what the policy samples on average. Gradient: that of DPO, weighted.

    Config: ``beta`` (0.1, above 0); ``label_smoothing`` e (0, at most 1/2, as in ``cdpo``); ``weighting`` (``"aligned"``, as
    above and as in TRL; ``"clamped"``: the pair weighs min(1, exp(mean lp_w + mean lp_l)), through which gradient flows, as
    Open-Instruct means it); ``pair_layout`` as in ``PairLoss``.

    Raises:
        KeyError: no ``logits``, ``input_ids`` or reference policy.
        ValueError: an odd number of rows, shapes that do not belong together, a token id outside the vocabulary.
        ConfigError: a setting out of range or unknown.

    Source: arXiv 2406.11827.
    """

    contract = pair_contract(
        facts={"surrogate_gradient": True},
        beta=BETA,
        label_smoothing=Option(values=(0.0, 0.1, 0.5)),
        weighting=Option(values=("aligned", "clamped")),
    )
    beta = Setting(0.1, above=0.0)
    label_smoothing = Setting(0.0, least=0.0, most=0.5)
    weighting = Setting("aligned", choices=("aligned", "clamped"))

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        if self.weighting == "clamped":
            self.contract = refine(self.contract, surrogate_gradient=False, direction={})
        elif self.label_smoothing > 0:
            self.contract = refine(self.contract, direction={})

    def paired_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        log_pi, m = next_token_distribution(batch, model_outputs)
        lp, w = of_sampled(log_pi, batch, m), row_weights(batch, log_pi)
        h = (lp - token_constant(batch, "reference_policy_logprobs", m)).sum(dim=1)
        h_w, h_l = active_pairs(h, w)
        weight = self._pair_weight(lp, log_pi, m, w)
        return mean_of_pairs(wpo(h_w - h_l, weight, self.beta, self.label_smoothing), w, batch)

    def _pair_weight(self, lp: Tensor, log_pi: Tensor, m: Tensor, w: Tensor) -> Tensor:
        n = trained_lengths(m).clamp(min=1)
        if self.weighting == "clamped":
            p_w, p_l = active_pairs(lp.sum(dim=1) / n, w)
            return (p_w + p_l).clamp(max=0).exp()
        per_token = torch.where(m != 0, aligned_log_weight(lp.detach(), log_pi.detach()), 0.0)
        log_w, log_l = active_pairs(per_token.sum(dim=1) / n, w)
        return (log_w + log_l).exp()
