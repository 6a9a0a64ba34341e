"""Reward models of single answers: a score to match, or right and wrong outcomes."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from loss_reference.contract import Contract, Field
from loss_reference.interface import Batch, LossFunction, Outputs
from loss_reference.reduction import keep_active, mean_of_rows
from loss_reference.registry import register
from loss_reference.reward.scores import row_constant, row_scores

__all__ = ["ORMBCELoss", "RewardRegressionLoss", "orm_bce", "reward_regression"]


def reward_regression(r: Tensor, score: Tensor) -> Tensor:
    """Return (r - score)^2, one term per row, for predicted and given scores [B]."""
    return (r - score) ** 2


def orm_bce(r: Tensor, y: Tensor) -> Tensor:
    """Return -y log sigma(r) - (1 - y) log sigma(-r), one term per row, for logits r [B] and labels y [B] in [0, 1].

    What a certain label rules out is not taken: 0 times the -inf of an infinite logit.
    """
    return -y * keep_active(F.logsigmoid(r), y) - (1 - y) * keep_active(F.logsigmoid(-r), 1 - y)


@register("reward_regression")
class RewardRegressionLoss(LossFunction):
    """Reward regression: L = mean over rows of (r - score)^2.

    Reads ``rewards`` [B] of the model outputs and ``scores`` [B]; optional ``sample_mask`` [B], ``global_valid_seqs``.
    Result in squared units of the score, at least 0, exactly 0 at r = score; no factor 1/2. The rewards receive gradient:
    dl/dr = 2 (r - score).

    Raises:
        KeyError: no ``scores``.
        ValueError: shapes that do not belong together.
        ConfigError: any setting: it has none.

    Source: least squares; arXiv 2311.09528 trains reward models of several attributes so.
    """

    contract = Contract(
        family="reward",
        level="sequence",
        normalizer="global",
        lower_bound=0.0,
        fields={"scores": Field("values", "B")},
    )
    strict_config = True

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        r, w = row_scores(batch, model_outputs)
        return mean_of_rows(reward_regression(r, row_constant(batch, "scores", w)), w, batch)


@register("orm_bce")
class ORMBCELoss(LossFunction):
    """Outcome reward model: L = mean over rows of -y log sigma(r) - (1 - y) log sigma(-r).

    Reads ``rewards`` [B] of the model outputs, the logits of a right answer, and ``labels`` y [B], 1 for right, 0 for
    wrong, or a probability between; optional ``sample_mask`` [B], ``global_valid_seqs``. Result in nats, at least 0
    (with y between 0 and 1 its entropy), log 2 at r = 0. The rewards receive gradient: dl/dr = sigma(r) - y.

    Raises:
        KeyError: no ``labels``.
        ValueError: shapes that do not belong together.
        ConfigError: any setting: it has none.

    Source: arXiv 2110.14168, 2211.14275.
    """

    contract = Contract(family="reward", level="sequence", normalizer="global", lower_bound=0.0)
    strict_config = True

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        r, w = row_scores(batch, model_outputs)
        return mean_of_rows(orm_bce(r, row_constant(batch, "labels", w)), w, batch)
