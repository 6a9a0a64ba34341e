"""Several objectives at once, by name and weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from loss_reference.composite.combine import combine, finite_weights, split_result
from loss_reference.composite.promises import contract_of, overrides, promises_of_sum, refined
from loss_reference.contract import Contract, Option
from loss_reference.interface import Batch, LossFunction, LossResult, Outputs
from loss_reference.names import nearest_name
from loss_reference.registry import create_loss_function, register, registry
from loss_reference.settings import ConfigError, Setting
from loss_reference.view import ReadOnlyView

__all__ = ["MultiObjectiveLoss"]


@register("multi_objective", "weighted_sum")
class MultiObjectiveLoss(LossFunction):
    """Weighted sum of objectives: L = sum_i w_i L_i.

    Reads what its objectives read. An objective is any registered loss, or a name that a subclass handles in
    ``compute_custom_loss``; ``compute_dpo_loss`` and ``compute_sft_loss`` can be replaced as well. Each objective keeps its
    own normaliser; ``sft`` trains on every row, rejected ones too. Range: the weighted sum of the objectives' ranges.
    The gradient is sum_i w_i grad L_i. An objective of weight 0 is not evaluated. Objectives that return (loss, metrics)
    make this loss return (loss, metrics) with ``"objective/metric"`` keys.

    Config: ``objectives`` (``["dpo", "sft"]``); ``weights`` (all 1); ``settings``, the config of each objective by its
    name, as in ``{"dpo": {"beta": 0.5}}`` (empty).

    Raises:
        ConfigError: no objectives, one named twice or unknown, weights that do not fit, settings for no objective.
        ValueError: an objective that is not a 0-dim tensor, and whatever the objectives raise.

    Terms: ``weighted_sum`` of the objectives.

    Source: the guide's MultiObjectiveLoss; TRL's ``loss_type`` list with ``loss_weights``.
    """

    contract = Contract(family="composite")
    objectives: Setting[Sequence[str]] = Setting(("dpo", "sft"), check=False)
    weights: Setting[Sequence[float] | None] = Setting(None, check=False)
    settings: Setting[Mapping[str, Any]] = Setting({}, check=False)

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        name = type(self).__name__
        listed = isinstance(self.objectives, Sequence) and not isinstance(self.objectives, str)
        count = len(self.objectives) if listed else 0
        if not count or len(set(self.objectives)) != count:
            raise ConfigError(
                f"{name}: objectives={self.objectives!r}; expected a list of names, at least one, each once"
            )
        self.weights = finite_weights(name, "weights", [1.0] * count if self.weights is None else self.weights, count)
        if not isinstance(self.settings, Mapping):
            raise ConfigError(
                f"{name}: settings={self.settings!r}; expected a mapping such as {{'dpo': {{'beta': 0.5}}}}"
            )
        for objective in self.settings:
            if objective not in self.objectives:
                hint = nearest_name(str(objective), self.objectives)
                raise ConfigError(f"{name}: settings are given for {objective!r}, which is not an objective{hint}")
        self.losses = nn.ModuleDict()
        for objective in self.objectives:
            if objective in registry.registry:
                settings = {**self.settings.get(objective, {}), "type": objective}
                self.losses[objective] = create_loss_function(settings)
            elif type(self).compute_custom_loss is MultiObjectiveLoss.compute_custom_loss:
                hint = nearest_name(objective, registry.names())
                raise ConfigError(
                    f"{name}: unknown objective {objective!r}{hint or '.'} "
                    "Register a loss under that name, or define compute_custom_loss(self, objective, batch, model_outputs)"
                )
        if not overrides(self, MultiObjectiveLoss, "compute_dpo_loss", "compute_sft_loss", "compute_custom_loss"):
            self._refine_contract()

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> LossResult:
        return combine(self._evaluate(batch, model_outputs))

    def components(self, batch: Batch, model_outputs: Outputs) -> dict[str, Tensor]:
        """Return w_i L_i by objective; they add up to the loss."""
        return {name: w * split_result(name, result)[0] for name, w, result in self._evaluate(batch, model_outputs)}

    def compute_dpo_loss(self, batch: Batch, model_outputs: Outputs) -> LossResult:
        """Return the loss of the objective ``dpo``."""
        return self._registered("dpo", batch, model_outputs)

    def compute_sft_loss(self, batch: Batch, model_outputs: Outputs) -> LossResult:
        """Return the loss of the objective ``sft``."""
        return self._registered("sft", batch, model_outputs)

    def compute_custom_loss(self, objective: str, batch: Batch, model_outputs: Outputs) -> LossResult:
        """Return the loss of any other objective: the loss registered under its name, unless a subclass knows better."""
        return self._registered(objective, batch, model_outputs)

    def _evaluate(self, batch: Batch, model_outputs: Outputs) -> list[tuple[str, float, LossResult]]:
        batch, model_outputs = ReadOnlyView(batch), ReadOnlyView(model_outputs)
        results = []
        for objective, weight in zip(self.objectives, self.weights or (), strict=True):
            if weight == 0:
                continue
            if objective == "dpo":
                result = self.compute_dpo_loss(batch, model_outputs)
            elif objective == "sft":
                result = self.compute_sft_loss(batch, model_outputs)
            else:
                result = self.compute_custom_loss(objective, batch, model_outputs)
            results.append((objective, weight, result))
        return results

    def _registered(self, objective: str, batch: Batch, model_outputs: Outputs) -> LossResult:
        if objective not in self.losses:
            raise NotImplementedError(
                f"{type(self).__name__}: {objective!r} is not among the objectives {', '.join(map(repr, self.objectives))}"
            )
        loss: LossFunction = self.losses[objective]  # type: ignore[assignment]
        return loss.compute_loss(batch, model_outputs)

    def _refine_contract(self) -> None:
        weights = self.weights or ()
        contracts = [contract_of(loss) for loss in self.losses.values()]
        first_only = (1.0, *[0.0] * (len(contracts) - 1))
        all_ones, halving = (1.0,) * len(contracts), tuple(2.0**-i for i in range(len(contracts)))
        name = self.objectives[0]
        weight_option = Option(
            values=tuple(dict.fromkeys((all_ones, halving, first_only))),
            reduces_to={} if name in self.settings else {first_only: name},
        )
        promises = promises_of_sum(list(zip(weights, contracts, strict=True)))
        self.contract = refined(type(self).contract, **promises, options={"weights": weight_option})
