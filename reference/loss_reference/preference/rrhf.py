"""Ranking by likelihood, beside imitation of the best answer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from loss_reference.contract import Option
from loss_reference.groups import group_weights
from loss_reference.interface import Batch, Outputs
from loss_reference.logprobs import trained_logprobs
from loss_reference.preference.groupwise import GroupLoss, active_groups, group_contract
from loss_reference.preference.pairwise import row_constant, trained_lengths
from loss_reference.reduction import row_weights
from loss_reference.registry import register
from loss_reference.settings import Setting

__all__ = ["RRHFLoss", "rank_violations", "rrhf"]


def rank_violations(scores: Tensor, rewards: Tensor) -> Tensor:
    """Return sum over reward_i < reward_j of max(0, score_i - score_j), one term per group, from [N, K] each."""
    worse = rewards.unsqueeze(2) < rewards.unsqueeze(1)
    # An impossible answer beside itself is -inf - (-inf).
    gap = torch.where(worse, scores.unsqueeze(2) - scores.unsqueeze(1), 0.0)
    return F.relu(gap).sum(dim=(1, 2))


def rrhf(q: Tensor, p: Tensor, rewards: Tensor, nll_weight: float = 1.0) -> Tensor:
    """Return sum over reward_i < reward_j of max(0, q_i - q_j) - nll_weight p_best, one term per group, from [N, K] each.

    Args:
        q: scores of the answers that are ranked, in nats.
        p: log-probabilities of the answers, summed over their tokens; best is the first of the highest reward.
        rewards: what says which answer is better.
        nll_weight: weight of the imitation, at least 0.
    """
    violations = rank_violations(q, rewards)
    p_best = p.gather(1, rewards.argmax(dim=1, keepdim=True)).squeeze(1)
    # A part of weight 0 is not taken: a model may find the best answer impossible.
    return violations if nll_weight == 0 else violations - nll_weight * p_best


@register("rrhf")
class RRHFLoss(GroupLoss):
    """RRHF: l = sum over reward_i < reward_j of max(0, q_i - q_j) - nll_weight p_best, q = p / n^length_penalty; L = sum of l.

    p is the sum of lp over the n trained tokens of an answer, best the first row of the highest reward. Inputs and errors as
    in ``GroupLoss``, without a reference policy and without ``global_valid_seqs``: a sum over the groups of the batch, with
    no divisor. At least 0; -nll_weight p_best where the q are ordered as the rewards are. The best answer is imitated by its
    sum, not its mean. The gradient of a comparison is 0 where both q are equal.

    Config: ``group_size`` K (2, at least 2); ``length_penalty`` (1.0, at least 0; 1 makes q a mean per token, 0 a sum);
    ``nll_weight`` (1.0, at least 0).

    Source: arXiv 2304.05302.
    """

    contract = group_contract(
        direction={"nll_weight": +1},
        facts={"normalizer": "sum"},
        length_penalty=Option(values=(0.0, 1.0)),
        nll_weight=Option(values=(0.0, 1.0)),
    )
    length_penalty = Setting(1.0, least=0.0)
    nll_weight = Setting(1.0, least=0.0)

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        lp, m = trained_logprobs(batch, model_outputs)
        w, n = row_weights(batch, lp), trained_lengths(m).clamp(min=1).to(lp)
        p = active_groups(lp.sum(dim=1), w, self.group_size)
        q = p / active_groups(n, w, self.group_size).clamp(min=1) ** self.length_penalty
        rewards = active_groups(row_constant(batch, "rewards", lp), w, self.group_size)
        return (group_weights(w, self.group_size) * rrhf(q, p, rewards, self.nll_weight)).sum()
