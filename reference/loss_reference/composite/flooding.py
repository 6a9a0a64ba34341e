"""A loss that is not allowed to sink below a level."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from loss_reference.composite.combine import split_result
from loss_reference.composite.parts import create_part, result_of_part
from loss_reference.composite.promises import contract_of, promises_of_sum, refined
from loss_reference.contract import Contract, Option
from loss_reference.interface import Batch, LossFunction, LossResult, Outputs
from loss_reference.registry import register
from loss_reference.settings import Setting

__all__ = ["FloodingLoss", "flooding"]


def flooding(loss: Tensor, level: float) -> Tensor:
    """Return |L - b| + b: L above the level b, 2 b - L below it, with gradient 0 exactly at it."""
    return (loss - level).abs() + level


@register("flooding")
class FloodingLoss(LossFunction):
    """Flooding: L = |l - b| + b for a loss l and a level b.

    Reads what its loss reads. At least b; l itself where l >= b. Below the level the gradient of l changes sign, so training
    walks along the level instead of memorising; exactly at it the gradient is 0. The level is meant for the loss of a
    batch: microbatches do not add up to the whole. An all-masked batch, l = 0, gives 2 b for b > 0. A loss that returns
    (loss, metrics) makes this one return both, as ``"loss/metric"``.

    Config: ``loss``, the config of l (``{"type": "nll"}``); ``level`` b (0, any finite number): for l of at least 0 and
    b = 0 nothing changes.

    Raises:
        ConfigError: no config with a type, a setting out of range or unknown.
        ValueError: a loss that is not a 0-dim tensor, and whatever it raises.

    Source: arXiv 2002.08709, eq. 1.
    """

    contract = Contract(family="composite", coupled=True)
    loss: Setting[Mapping[str, Any]] = Setting({"type": "nll"}, check=False)
    level = Setting(0.0)

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        self.flooded = create_part(type(self).__name__, "loss", self.loss)
        facts = promises_of_sum([(1.0, contract_of(self.flooded))])
        least = facts.get("lower_bound")
        for depends_on_level in ("upper_bound", "direction"):
            facts.pop(depends_on_level, None)
        facts["lower_bound"] = max(self.level, float("-inf") if least is None else least)
        plain = set(self.loss) <= {"type"} and least is not None and least >= 0
        unchanged = {0.0: self.loss["type"]} if plain else {}
        facts["options"] = {"level": Option((0.0, 0.5, 2.0), reduces_to=unchanged)}
        if self.level > 0:
            nothing_left = "an all-masked batch has l = 0, below the level: |0 - b| + b = 2 b"
            facts["exempt"] = {**facts.get("exempt", {}), "empty_batch": nothing_left}
        self.contract = refined(type(self).contract, **facts)

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> LossResult:
        loss, metrics = split_result("loss", result_of_part(self.flooded, batch, model_outputs))
        value = flooding(loss, self.level)
        return value if metrics is None else (value, {f"loss/{key}": x for key, x in metrics.items()})
