"""DPO whose beta follows how far the pairs of the batch are apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from loss_reference.contract import Field, Option
from loss_reference.interface import Batch, Outputs
from loss_reference.pairs import mean_of_pairs, pair_weights
from loss_reference.preference.dpo import dpo, sequence_log_ratio
from loss_reference.preference.layout import PairedLoss
from loss_reference.preference.pairwise import BETA, active_pairs, pair_contract, row_constant
from loss_reference.reduction import keep_active
from loss_reference.registry import register
from loss_reference.relevance import unless
from loss_reference.settings import Setting

__all__ = ["SMALLEST_BETA", "BetaDPOLoss", "beta_of_batch"]

SMALLEST_BETA: Final = 1e-3


def beta_of_batch(delta: Tensor, among: Tensor, gap_mean: Tensor, beta: float = 0.1, a: float = 0.6) -> Tensor:
    """Return max(beta (1 + a (mean delta - gap_mean)), 1e-3), a constant scalar; the mean of no pair is 0.

    Args:
        delta: h_w - h_l [N], in nats.
        among: bool [N], the pairs whose mean counts; those of a delta that is not finite are left out.
        gap_mean: scalar, what a usual batch's mean is.
        beta: beta of a usual batch, above 0.
        a: how strongly beta follows, at least 0.
    """
    return (beta * (1 + a * (_mean(delta.detach(), among) - gap_mean))).clamp(min=SMALLEST_BETA)


def _mean(x: Tensor, among: Tensor) -> Tensor:
    among = among & x.isfinite()
    return torch.where(among, x, 0.0).sum() / among.sum().clamp(min=1)


@register("beta_dpo")
class BetaDPOLoss(PairedLoss):
    """beta-DPO: l = -log sigma(beta_i (h_w - h_l)), beta_i = max(beta (1 + a (mean of h_w - h_l - M)), 0.001), constant.

    The mean is over the pairs of the batch that take part and whose h_w - h_l is finite, M a running mean of it over
    batches. Inputs and errors as in ``PairLoss``; optional ``selection_mask`` [B]: the weight of a pair is multiplied by
    the smaller selection of its rows, so that pairs which look noisy can be left out (the paper draws them at random: the
    caller does). At least 0, log 2 at policy = reference; ``dpo`` for a = 0 without a selection. The gradient takes beta_i
    as a constant. Terms depend on the whole batch.

    State, saved with the loss: ``gap_mean`` M, 0 at first. A call uses it as it stands; in training mode it then becomes
    ema M + (1 - ema) times the mean over all pairs of nonzero ``sample_mask``, selected or not, when there are any.

    Config: ``beta`` (0.1, above 0); ``a`` (0.6, at least 0); ``ema`` (0.9, from 0 to 1).

    Terms: ``dpo`` with ``beta_of_batch``.

    Source: arXiv 2407.08639.
    """

    contract = pair_contract(
        facts={
            "stateful": True,
            "coupled": True,
            "surrogate_gradient": True,
            "fields": {"selection_mask": Field("mask", "B")},
        },
        beta=BETA,
        a=Option(values=(0.0, 0.6)),
        ema=Option(values=(0.0, 0.9), inert=True),
    )
    beta = Setting(0.1, above=0.0)
    a = Setting(0.6, least=0.0)
    ema = Setting(0.9, least=0.0, most=1.0, read_when=unless("a", 0))
    gap_mean: Tensor

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        self.register_buffer("gap_mean", torch.zeros((), dtype=torch.float64))

    def paired_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        h, w = sequence_log_ratio(batch, model_outputs)
        h_w, h_l = active_pairs(h, w)
        delta, selected = h_w - h_l, pair_weights(w)
        if "selection_mask" in batch:
            selected = selected * keep_active(pair_weights(row_constant(batch, "selection_mask", w)), selected)
        beta = beta_of_batch(delta, selected != 0, self.gap_mean.to(h), self.beta, self.a)
        if self.training:
            self._take_in(delta.detach(), (pair_weights(w) != 0) & delta.isfinite())
        return mean_of_pairs(dpo(beta * delta, beta=1.0), selected.repeat_interleave(2), batch)

    def _take_in(self, delta: Tensor, active: Tensor) -> None:
        moved = self.ema * self.gap_mean + (1 - self.ema) * _mean(delta, active).to(self.gap_mean)
        self.gap_mean = torch.where(active.any().to(moved.device), moved, self.gap_mean)
