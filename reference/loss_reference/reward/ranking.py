"""Reward models of K answers to one prompt: rows 0 .. K-1 are the first group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from loss_reference.contract import Contract, Option
from loss_reference.groups import group_weights, mean_of_groups, split_groups
from loss_reference.interface import Batch, LossFunction, Outputs
from loss_reference.plackett_luce import plackett_luce
from loss_reference.reduction import keep_active, row_weights
from loss_reference.registry import register
from loss_reference.settings import Setting
from loss_reference.shapes import require_shape
from loss_reference.token_level import refine

__all__ = ["AllPairsKLoss", "PlackettLuceRMLoss", "RankingLoss", "all_pairs", "plackett_luce"]

RANKING: Final = Contract(
    family="reward",
    level="sample",
    group_size=2,
    normalizer="global",
    lower_bound=0.0,
)


def all_pairs(r: Tensor, true: Tensor) -> Tensor:
    """Return the mean over the K (K - 1) / 2 pairs of -log sigma(r_better - r_worse), one term per group.

    Args:
        r: predicted scores [..., K].
        true: rewards [..., K]; a pair of equal ones adds 0, and is counted.
    """
    K = r.shape[-1]
    better = true.unsqueeze(-1) > true.unsqueeze(-2)
    # An infinite score beside itself is inf - inf.
    gap = torch.where(better, r.unsqueeze(-1) - r.unsqueeze(-2), 0.0)
    pairs = torch.where(better, -F.logsigmoid(gap), 0.0)
    return pairs.sum(dim=(-2, -1)) / (K * (K - 1) / 2)


class RankingLoss(LossFunction):
    """L = mean over groups of ``terms(r, true)``: K predicted scores of one prompt, and the rewards that order them.

    Reads ``rewards`` [B] of the model outputs, and ``rewards`` [B] of the batch, the true ones, of which only the order
    within a group of K neighbouring rows matters; optional ``sample_mask`` [B], ``global_valid_seqs``. A group weighs
    the smallest weight of its rows. The predicted rewards receive gradient.

    Config: ``group_size`` K (2, a whole number of at least 2).

    Raises:
        KeyError: no ``rewards``.
        ValueError: rows that do not make whole groups, shapes that do not belong together.
        ConfigError: a setting out of range or unknown.
    """

    group_size = Setting(2, least=2)

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        if self.group_size != 2:
            options = {"group_size": Option(values=(self.group_size,))}
            self.contract = refine(self.contract, group_size=self.group_size, options=options)

    def terms(self, r: Tensor, true: Tensor, /) -> Tensor:
        """Return [B/K] terms from predicted and true rewards [B/K, K]."""
        raise NotImplementedError(f"{type(self).__name__} must define terms(self, r, true)")

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        K, predicted, true = self.group_size, model_outputs["rewards"], batch["rewards"]
        require_shape("rewards", predicted, ("B",), "one score per row")
        require_shape("rewards of the batch", true, tuple(predicted.shape), "that of the predicted ones")
        groups = split_groups(predicted, K, "rewards")
        w = row_weights(batch, predicted)
        active = group_weights(w, K)
        r = keep_active(groups, active)
        true = keep_active(split_groups(true.detach(), K), active)
        return mean_of_groups(self.terms(r, true), w, batch, K)


@register("all_pairs_k")
class AllPairsKLoss(RankingLoss):
    """All pairs: l = 2 / (K (K - 1)) sum over pairs of -log sigma(r_better - r_worse), K answers to one prompt.

    Inputs, config and errors as in ``RankingLoss``. In nats, at least 0, log 2 at equal predicted rewards when no true
    ones are equal; a pair of equal true rewards says nothing and still counts in the mean. For K = 2 and unequal true
    rewards it is ``bradley_terry``. Every pair has the same weight, and so has every prompt however many answers it has.

    Terms: ``all_pairs``.

    Source: arXiv 2203.02155, eq. 1.
    """

    contract = refine(RANKING, options={"group_size": Option(values=(2,))})
    strict_config = True

    def terms(self, r: Tensor, true: Tensor, /) -> Tensor:
        return all_pairs(r, true)


@register("plackett_luce_rm")
class PlackettLuceRMLoss(RankingLoss):
    """Plackett-Luce: l = sum_k [log sum_{j >= k} e^(r_(j)) - r_(k)], r_(1), r_(2), ... in the true order, best first.

    Inputs, config and errors as in ``RankingLoss``. In nats per group, at least 0, log K! at equal predicted rewards;
    ``bradley_terry`` for K = 2. Of answers with equal true rewards the earlier one counts as better: a tie is not left
    open. Only differences of predicted rewards within a group matter.

    Terms: ``plackett_luce``.

    Source: the likelihood of a ranking under the Plackett-Luce model.
    """

    contract = refine(RANKING, options={"group_size": Option(values=(2,))})
    strict_config = True

    def terms(self, r: Tensor, true: Tensor, /) -> Tensor:
        return plackett_luce(r, true)
