"""A weighted sum whose weights are learnt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from loss_reference.composite.combine import Weight, split_result, with_metrics
from loss_reference.composite.composed import ComposedLoss, require_unweighted
from loss_reference.composite.promises import contract_of, overrides, promises_of_sum, refined
from loss_reference.contract import Contract
from loss_reference.interface import Batch, LossResult, Outputs
from loss_reference.registry import register
from loss_reference.settings import Setting
from loss_reference.view import ReadOnlyView

__all__ = ["UncertaintyWeightingLoss", "uncertainty_weighting"]


def uncertainty_weighting(loss: Tensor, log_variance: Tensor) -> Tensor:
    """Return (exp(-s) L + s) / 2, one term per task.

    Args:
        loss: L, of any shape.
        log_variance: s, of the same shape; the logarithm of the variance of the task.
    """
    return (torch.exp(-log_variance) * loss + log_variance) / 2


@register("uncertainty_weighting")
class UncertaintyWeightingLoss(ComposedLoss):
    """Uncertainty weighting: L = sum_i (exp(-s_i) L_i + s_i) / 2, with one learnt number s_i per loss.

    s_i is the logarithm of the variance of task i, a parameter of this loss (``log_variances``, initially 0): give it to
    the optimiser too. At s = 0 the value is sum L_i / 2; for L_i above 0 it is stationary at exp(s_i) = L_i, where each
    loss contributes (1 + log L_i) / 2, so a loss is weighed by the inverse of its size. A loss that reaches 0 or less drives
    s_i to -inf: no lower bound. Reads what its losses read. The gradient is sum_i exp(-s_i) grad L_i / 2, and
    (1 - exp(-s_i) L_i) / 2 for s_i; each microbatch adds the whole s_i / 2, so their sum is not that of the whole. Metrics
    and names as in ``ComposedLoss``.

    Config: ``losses``, a list of configs as ``loss_functions`` of ``ComposedLoss``, without ``weight``.

    Raises:
        ConfigError: no losses, an entry that is no config or has a weight, a setting that is unknown.
        ValueError: a loss that is not a 0-dim tensor, and whatever they raise.

    Source: arXiv 1705.07115, eq. 7, with the factor 1/2 for every loss.
    """

    contract = Contract(family="composite", coupled=True)
    entries: Setting[Sequence[Mapping[str, Any]]] = Setting((), key="losses", check=False)

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        require_unweighted(type(self).__name__, "losses", self.entries)
        self.log_variances = nn.Parameter(torch.zeros(len(self.entries)))
        if not overrides(self, UncertaintyWeightingLoss, "create_loss_function"):
            facts = promises_of_sum([(0.5, contract_of(loss)) for loss in self.loss_functions])
            facts.pop("upper_bound", None)
            facts["lower_bound"] = float("-inf")
            self.contract = refined(type(self).contract, **facts)

    def weighted_losses(self, batch: Batch, model_outputs: Outputs) -> list[tuple[str, Weight, LossResult]]:
        """Return (name, exp(-s) / 2, result) of every loss."""
        view = ReadOnlyView(batch), ReadOnlyView(model_outputs)
        weights = (torch.exp(-self.log_variances) / 2).unbind()
        results = [loss.compute_loss(*view) for loss in self.losses()]
        return list(zip(self.component_names(), weights, results, strict=True))

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> LossResult:
        parts = self.weighted_losses(batch, model_outputs)
        losses = [split_result(name, result)[0] for name, _, result in parts]
        terms = map(uncertainty_weighting, losses, self.log_variances.unbind())
        return with_metrics(torch.stack(list(terms)).sum(), parts)

    def components(self, batch: Batch, model_outputs: Outputs) -> dict[str, Tensor]:
        """Return exp(-s_i) L_i / 2 by name and ``"log_variances"``, sum s_i / 2; they add up to the loss."""
        parts = {n: w * split_result(n, result)[0] for n, w, result in self.weighted_losses(batch, model_outputs)}
        return {**parts, "log_variances": self.log_variances.sum() / 2}
