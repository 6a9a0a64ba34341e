"""A weighted sum whose weights follow the ratios of the losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from loss_reference.composite.combine import Weight, finite_weights, split_result
from loss_reference.composite.composed import ComposedLoss
from loss_reference.composite.promises import contract_of, overrides, promises_of_sum, refined
from loss_reference.contract import Contract, Option
from loss_reference.interface import Batch, LossResult, Outputs
from loss_reference.registry import register
from loss_reference.settings import ConfigError, Setting
from loss_reference.view import ReadOnlyView

__all__ = ["DynamicWeightLoss", "dynamic_weights"]

SMALLEST_DIVISOR = 1e-8


def dynamic_weights(values: Tensor, base: Tensor, rate: float = 0.01, mode: str = "robust") -> Tensor:
    """Return w_i = base_i + a_i - a_(i-1), a_i = rate (values_i / values_(i+1) - 1), one weight per loss [n].

    ``"robust"`` keeps every divisor 1e-8 away from 0 and every weight at least 0, and their sum that of ``base``.

    Args:
        values: the losses [n].
        base: their weights at rate 0 [n].
        rate: how fast the weights follow the losses, at least 0.
        mode: ``"robust"`` or ``"literal"``, the formula alone.
    """
    if mode == "robust":
        values = torch.where(values < 0, -1.0, 1.0) * values.abs().clamp(min=SMALLEST_DIVISOR)
    adjustments, nothing = rate * (values[:-1] / values[1:] - 1), values.new_zeros(1)
    weights = base + torch.cat([adjustments, nothing]) - torch.cat([nothing, adjustments])
    if mode == "literal":
        return weights
    weights = weights.clamp(min=0)
    return weights * (base.sum() / weights.sum())


@register("dynamic_weight")
class DynamicWeightLoss(ComposedLoss):
    """Weighted sum with moving weights: L = sum_i sg(w_i) L_i, where a loss larger than its successor gains weight.

    a_i = r (L_i / L_{i+1} - 1), added to w_i and taken from w_{i+1}, starting from ``base_weights``.
    ``mode="robust"``: |L| is at least 1e-8 in the ratios, the weights are clamped at 0 and rescaled to the sum of
    ``base_weights``. ``mode="literal"``, the guide's form: neither; a weight falls below 0, which is gradient *ascent*, once
    a ratio exceeds 1 + base / r, and a loss of 0 gives weights that are inf or NaN.

    Reads what its losses read. The weights always sum to that of ``base_weights``; they equal ``base_weights`` when all
    losses are equal or r = 0, and do not change when every loss is scaled alike. They are constants to the gradient,
    sum_i w_i grad L_i, and follow the losses of this batch: microbatches do not add up to the whole. Range: at least 0
    for losses of at least 0 (robust). Metrics and names as in ``ComposedLoss``.

    Config: ``loss_functions`` as in ``ComposedLoss`` without ``weight``, or set by a subclass on ``self.loss_functions``;
    ``base_weights`` (all 1; at least 0, one for each loss); ``adaptation_rate`` r (0.01, at least 0); ``mode``.

    Raises:
        ConfigError: weights that do not fit, a ``weight`` on an entry, a setting out of range or unknown.
        ValueError: no losses, as many weights as losses are not there, a loss that is not a 0-dim tensor.

    Terms: ``weighted_sum`` of the losses with ``dynamic_weights``.

    Source: the guide's DynamicWeightLoss.
    """

    contract = Contract(family="composite", surrogate_gradient=True, coupled=True)
    base_weights: Setting[Sequence[float] | None] = Setting(None, check=False)
    adaptation_rate = Setting(0.01, least=0.0)
    mode = Setting("robust", choices=("robust", "literal"))

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        owner = type(self).__name__
        if any("weight" in entry for entry in self.entries):
            raise ConfigError(f"{owner}: one of the loss_functions has a 'weight'; the weights are base_weights here")
        given = self.base_weights
        count = len(self.entries) or (2 if given is None else len(given))
        self.base_weights = finite_weights(owner, "base_weights", [1.0] * count if given is None else given, count)
        if min(self.base_weights) < 0:
            raise ConfigError(f"{owner}: base_weights={self.base_weights!r}; expected numbers of at least 0")
        if self.entries and not overrides(self, DynamicWeightLoss, "create_loss_function", "compute_dynamic_weights"):
            self._refine_contract(self.base_weights)

    def compute_dynamic_weights(self, losses: Sequence[Tensor]) -> list[Tensor]:
        """Return the weight of each loss, 0-dim tensors without gradient; no value leaves the device.

        Raises:
            ValueError: as many losses as ``base_weights`` are not there.
        """
        base_weights = self.base_weights or ()
        if len(losses) != len(base_weights):
            raise ValueError(
                f"{type(self).__name__}: {len(losses)} losses for {len(base_weights)} base_weights; expected as many"
            )
        values = torch.stack([torch.as_tensor(loss).detach() for loss in losses])
        weights = dynamic_weights(values, values.new_tensor(base_weights), self.adaptation_rate, self.mode)
        return list(weights.unbind())

    def weighted_losses(self, batch: Batch, model_outputs: Outputs) -> list[tuple[str, Weight, LossResult]]:
        """Return (name, weight, result) of every loss, the weights from ``compute_dynamic_weights``."""
        view = ReadOnlyView(batch), ReadOnlyView(model_outputs)
        names = self.component_names()
        results = [loss.compute_loss(*view) for loss in self.losses()]
        weights = self.compute_dynamic_weights(
            [split_result(name, result)[0] for name, result in zip(names, results, strict=True)]
        )
        return list(zip(names, weights, results, strict=True))

    def components(self, batch: Batch, model_outputs: Outputs) -> dict[str, Tensor]:
        """Return w_i L_i by name; they add up to the loss."""
        return {n: w * split_result(n, result)[0] for n, w, result in self.weighted_losses(batch, model_outputs)}

    def _refine_contract(self, base_weights: list[float]) -> None:
        facts = promises_of_sum([(1.0, contract_of(loss)) for loss in self.loss_functions])
        least = facts.get("lower_bound")
        for depends_on_weights in ("lower_bound", "upper_bound", "direction"):
            facts.pop(depends_on_weights, None)
        if self.mode == "literal":
            facts["empty"] = "nan"  # 0 / 0 in the ratios
        elif least is not None and least >= 0:
            facts["lower_bound"] = 0.0
        count = len(base_weights)
        weights = dict.fromkeys((tuple(base_weights), (1.0,) * count, tuple(2.0**-i for i in range(count))))
        facts["options"] = {"base_weights": Option(tuple(weights)), "adaptation_rate": Option((0.01, 0.0, 0.1))}
        self.contract = refined(type(self).contract, **facts)
