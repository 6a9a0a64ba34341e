"""A loss whose weight follows its own distance from a target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from loss_reference.composite.combine import split_result
from loss_reference.composite.promises import contract_of, overrides, promises_of_sum, refined
from loss_reference.contract import Contract, Option
from loss_reference.interface import Batch, LossFunction, LossResult, Outputs
from loss_reference.registry import create_loss_function, register
from loss_reference.relevance import unless, where
from loss_reference.settings import ConfigError, Setting
from loss_reference.view import ReadOnlyView

__all__ = ["AdaptiveLoss", "adaptive"]


def adaptive(
    loss: Tensor, rate: float = 0.1, target: float = 1.0, bounds: tuple[float, float] | None = (0.1, 10.0)
) -> Tensor:
    """Return l clip(1 + d, bounds), or l + d without bounds, d = sg(rate (l / target - 1)).

    Args:
        loss: l, of any shape.
        rate: how fast the weight follows the loss, at least 0.
        target: the loss at which nothing changes, not 0.
        bounds: the smallest and the largest factor.
    """
    deviation = rate * (loss.detach() / target - 1)
    return loss + deviation if bounds is None else loss * (1 + deviation).clamp(*bounds)


@register("adaptive")
class AdaptiveLoss(LossFunction):
    """Base loss l, trained harder above a target and softer below it, with sg(.) the stop-gradient.

    ``mode="scale"``: L = l sg(clamp(1 + r (l / t - 1), lower, upper)); grad L is that factor times grad l.
    ``mode="literal"``, the guide's form: L = l + sg(r (l / t - 1)); grad L = grad l, so that the adaptation is shown and
    never trains anything, and an all-masked batch gives -r instead of 0.

    Reads what the base loss reads. L = l where l = t, and where r = 0. The value depends on l itself: the losses of
    microbatches do not add up to that of the whole. Range: that of l times ``lower`` to ``upper``; literal: that of
    (1 + r / t) l - r. A base loss that returns (loss, metrics) makes this loss return both.

    Config: ``base``, the config of l (``{"type": "dpo"}``), used unless a subclass defines ``compute_base_loss``;
    ``adaptation_rate`` r (0.1, at least 0); ``target_loss`` t (1.0, not 0); ``mode`` (``"scale"``); ``lower`` (0.1, at
    least 0) and ``upper`` (10.0, not below ``lower``).

    Raises:
        ConfigError: a setting out of range or unknown.
        ValueError: a base loss that is not a 0-dim tensor, and whatever it raises.

    Source: the guide's AdaptiveLoss.
    """

    contract = Contract(family="composite", surrogate_gradient=True, coupled=True)
    base: Setting[Mapping[str, Any]] = Setting({"type": "dpo"}, check=False)
    adaptation_rate = Setting(0.1, least=0.0)
    target_loss = Setting(1.0, read_when=unless("adaptation_rate", 0))
    mode = Setting("scale", choices=("scale", "literal"))
    lower = Setting(0.1, least=0.0, read_when=where("mode", "scale"))
    upper = Setting(10.0, above=0.0, read_when=where("mode", "scale"))

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        if self.target_loss == 0:
            raise ConfigError(
                f"{type(self).__name__}: target_loss=0; the loss is divided by it, expected another number"
            )
        if self.lower > self.upper:
            raise ConfigError(f"{type(self).__name__}: lower={self.lower} is above upper={self.upper}")
        self.base_loss = create_loss_function(self.base)
        if not overrides(self, AdaptiveLoss, "compute_base_loss"):
            self._refine_contract()

    def compute_base_loss(self, batch: Batch, model_outputs: Outputs) -> LossResult:
        """Return the base loss l: that of ``config["base"]``, unless a subclass knows better."""
        return self.base_loss.compute_loss(batch, model_outputs)

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> LossResult:
        result = self.compute_base_loss(ReadOnlyView(batch), ReadOnlyView(model_outputs))
        base, metrics = split_result("base", result)
        loss = self._adapted(base)
        return loss if metrics is None else (loss, {f"base/{key}": value for key, value in metrics.items()})

    def components(self, batch: Batch, model_outputs: Outputs) -> dict[str, Tensor]:
        """Return ``{"base": l, "adaptation": L - l}``, which add up to the loss."""
        base, _ = split_result("base", self.compute_base_loss(ReadOnlyView(batch), ReadOnlyView(model_outputs)))
        return {"base": base, "adaptation": self._adapted(base) - base}

    def _adapted(self, base: Tensor) -> Tensor:
        bounds = None if self.mode == "literal" else (self.lower, self.upper)
        return adaptive(base, self.adaptation_rate, self.target_loss, bounds)

    def _refine_contract(self) -> None:
        facts = promises_of_sum([(1.0, contract_of(self.base_loss))])
        least = facts.pop("lower_bound", None)
        facts.pop("upper_bound", None)
        if self.target_loss < 0 or least is None or least < 0:
            facts.pop("direction", None)  # then L need not rise with l
        if least is not None and self.mode == "scale":
            facts["lower_bound"] = least * (self.lower if least >= 0 else self.upper)
        elif least is not None and self.target_loss > 0:
            facts["lower_bound"] = (1 + self.adaptation_rate / self.target_loss) * least - self.adaptation_rate
        if self.mode == "literal" and self.adaptation_rate > 0:
            facts["exempt"] = {"empty_batch": "the guide's form gives -r instead of 0"}
        within = self.mode == "literal" or self.lower <= 1 <= self.upper
        unchanged = {0.0: self.base.get("type", "dpo")} if set(self.base) <= {"type"} and within else {}
        facts["options"] = {
            "adaptation_rate": Option((0.1, 0.0, 1.0), reduces_to=unchanged),
            "target_loss": Option((1.0, 0.5)),
            "mode": Option(("scale", "literal")),
            "lower": Option((0.1, 1.0)),
            "upper": Option((10.0, 0.5)),
        }
        self.contract = refined(type(self).contract, **facts)
