"""Distillation scaled to the size of the supervised loss beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from loss_reference.composite.combine import combine, split_result
from loss_reference.composite.parts import create_part, result_of_part
from loss_reference.composite.promises import contract_of, promises_of_sum, refined
from loss_reference.contract import Contract
from loss_reference.interface import Batch, LossFunction, LossResult, Outputs
from loss_reference.registry import register
from loss_reference.settings import Setting

__all__ = ["DynamicLossScalingLoss", "scale_to"]


def scale_to(ce: Tensor, kd: Tensor) -> Tensor:
    """Return |CE| / |KD|, a constant; 1 where KD is 0."""
    ce, kd = ce.detach().abs(), kd.detach().abs()
    return torch.where(kd > 0, ce / kd.where(kd > 0, 1.0), torch.ones_like(kd))


@register("dynamic_loss_scaling")
class DynamicLossScalingLoss(LossFunction):
    """Dynamic loss scaling: L = sg(|CE| / |KD|) KD + CE, the factor 1 where KD = 0.

    Reads what its two parts read. The value is 2 CE whenever both are above 0, however far the student is from the teacher:
    look at the parts to see progress. The gradient is that of KD times the factor, plus that of CE; as KD tends to 0 the
    factor grows without bound. The factor is of this batch, so microbatches do not add up to the whole. Parts that
    return (loss, metrics) make this loss return both, as ``"distillation/metric"`` and ``"supervised/metric"``.

    Config: ``distillation``, the config of KD (``{"type": "forward_kl"}``); ``supervised``, that of CE
    (``{"type": "nll"}``).

    Raises:
        ConfigError: a part that is no config with a type, an unknown setting.
        ValueError: a part that is not a 0-dim tensor, and whatever the parts raise.

    Terms: the factor of KD is ``scale_to``.

    Source: NeMo RL ``CrossTokenizerDistillationLossFn`` with ``dynamic_loss_scaling=True``.
    """

    contract = Contract(family="composite", surrogate_gradient=True, coupled=True)
    distillation: Setting[Mapping[str, Any]] = Setting({"type": "forward_kl"}, check=False)
    supervised: Setting[Mapping[str, Any]] = Setting({"type": "nll"}, check=False)

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        owner = type(self).__name__
        self.kd = create_part(owner, "distillation", self.distillation)
        self.ce = create_part(owner, "supervised", self.supervised)
        facts = promises_of_sum([(1.0, contract_of(self.kd)), (1.0, contract_of(self.ce))])
        least = facts.pop("lower_bound", None)
        for depends_on_scale in ("upper_bound", "direction"):
            facts.pop(depends_on_scale, None)
        if least is not None and least >= 0:
            facts["lower_bound"] = 0.0
        self.contract = refined(type(self).contract, **facts)

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> LossResult:
        kd, ce = (result_of_part(part, batch, model_outputs) for part in (self.kd, self.ce))
        scale = scale_to(split_result("supervised", ce)[0], split_result("distillation", kd)[0])
        return combine([("distillation", scale, kd), ("supervised", 1.0, ce)])

    def components(self, batch: Batch, model_outputs: Outputs) -> dict[str, Tensor]:
        """Return ``{"distillation": sg(|CE| / |KD|) KD, "supervised": CE}``, which add up to the loss."""
        kd, ce = (split_result("a part", result_of_part(part, batch, model_outputs))[0] for part in (self.kd, self.ce))
        return {"distillation": scale_to(ce, kd) * kd, "supervised": ce}
