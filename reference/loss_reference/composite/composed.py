"""A weighted sum of losses built from a config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from torch import Tensor, nn

from loss_reference.composite.combine import Weight, combine, finite_weights
from loss_reference.composite.promises import contract_of, overrides, promises_of_sum, refined
from loss_reference.contract import Contract
from loss_reference.interface import Batch, LossFunction, LossResult, Outputs
from loss_reference.registry import create_loss_function, register
from loss_reference.settings import ConfigError, Setting
from loss_reference.view import ReadOnlyView

__all__ = ["ComposedLoss", "require_unweighted"]

DEEPEST: Final = 8


@register("composed")
class ComposedLoss(LossFunction):
    """Composition: L = sum_i w_i L_i over the losses its config lists.

    Reads what its losses read, through a read-only view of the batch. Each loss keeps its own normaliser. Range: the
    weighted sum of their ranges. The gradient is sum_i w_i grad L_i; parameters of the losses are parameters of this
    one. A loss of weight 0 is not evaluated. Nesting multiplies weights: a composition inside another equals the flat
    one. Losses that return (loss, metrics) make this loss return (loss, metrics) with ``"name/metric"`` keys.

    ``self.loss_functions``, ``self.weights`` and ``self.create_loss_function`` may be replaced by a subclass.

    Config: ``loss_functions``, a list of configs with the ``type`` of a registered loss, a ``weight`` (1.0, any finite
    number), a ``name`` (the type, numbered from the second on) and the settings of that loss.

    Raises:
        ConfigError: an entry that is no config or has no type, a name used twice, nesting deeper than 8 levels.
        ValueError: no losses to add up, one that is not a 0-dim tensor, and whatever they raise.

    Terms: ``weighted_sum`` of the losses.

    Source: the guide's ComposedLoss.
    """

    contract = Contract(family="composite")
    entries: Setting[Sequence[Mapping[str, Any]]] = Setting((), key="loss_functions", check=False)

    loss_functions: nn.ModuleList
    weights: list[float]

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        owner = type(self).__name__
        _require_entries(owner, type(self).entries.key, self.entries)
        self.names = _distinct_names(owner, self.entries)
        self.loss_functions = nn.ModuleList(self.create_loss_function(entry) for entry in self.entries)
        weights = [entry.get("weight", 1.0) for entry in self.entries]
        self.weights = finite_weights(owner, "weights", weights, len(self.entries)) if self.entries else []
        if self.entries and not overrides(self, ComposedLoss, "create_loss_function"):
            contracts = [contract_of(loss) for loss in self.loss_functions]
            facts = promises_of_sum(list(zip(self.weights, contracts, strict=True)))
            self.contract = refined(type(self).contract, **facts)

    def __setattr__(self, name: str, value: Any) -> None:
        # A subclass may assign a plain list; as a ModuleList its losses are moved and saved along.
        super().__setattr__(name, nn.ModuleList(value) if name == "loss_functions" else value)

    def create_loss_function(self, loss_config: Mapping[str, Any]) -> LossFunction:
        """Return the loss for one entry of the config; ``weight`` and ``name`` are ours and not passed on."""
        if "type" not in loss_config:
            raise ConfigError(f"{type(self).__name__}: the entry {dict(loss_config)!r} has no 'type'")
        return create_loss_function({key: loss_config[key] for key in loss_config if key not in ("weight", "name")})

    def losses(self) -> Iterator[LossFunction]:
        """Iterate over the losses, in order."""
        yield from self.loss_functions  # type: ignore[misc]  # a ModuleList of LossFunctions

    def component_names(self) -> list[str]:
        """Return the name of each loss: from the config, or of its class when a subclass set the losses itself."""
        if len(self.names) == len(self.loss_functions):
            return self.names
        return _distinct_names(type(self).__name__, [{"type": type(loss).__name__} for loss in self.loss_functions])

    def weighted_losses(self, batch: Batch, model_outputs: Outputs) -> list[tuple[str, Weight, LossResult]]:
        """Return (name, weight, result) of every loss whose weight is not 0."""
        view = ReadOnlyView(batch), ReadOnlyView(model_outputs)
        return [(name, w, loss.compute_loss(*view)) for name, w, loss in self._active()]

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> LossResult:
        return combine(self.weighted_losses(batch, model_outputs))

    def components(self, batch: Batch, model_outputs: Outputs) -> dict[str, Tensor]:
        """Return the weighted parts of every loss, as ``"name"`` or ``"name/part"``; they add up to the loss."""
        view = ReadOnlyView(batch), ReadOnlyView(model_outputs)
        return {
            name if part == "loss" else f"{name}/{part}": w * value
            for name, w, loss in self._active()
            for part, value in loss.components(*view).items()
        }

    def _active(self) -> list[tuple[str, float, LossFunction]]:
        named = zip(self.component_names(), self.weights, self.losses(), strict=True)
        return [(name, w, loss) for name, w, loss in named if w != 0]


def require_unweighted(owner: str, key: str, entries: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a list of losses that is empty, or has a ``weight`` where the weights are not the config's to give.

    Raises:
        ConfigError: quotes the loss, the key and what is wrong.
    """
    if not entries:
        raise ConfigError(f"{owner} needs {key}, a list of configs such as [{{'type': 'dpo'}}, {{'type': 'nll'}}]")
    if any("weight" in entry for entry in entries):
        raise ConfigError(f"{owner}: one of the {key} has a 'weight', which nothing reads here")


def _require_entries(owner: str, key: str, entries: Any, depth: int = 1) -> None:
    if depth > DEEPEST:
        raise ConfigError(f"{owner}: {key} is nested deeper than {DEEPEST} levels; does the config contain itself?")
    if isinstance(entries, str | Mapping) or not isinstance(entries, Sequence):
        raise ConfigError(f"{owner}: {key}={entries!r}; expected a list of configs such as [{{'type': 'dpo'}}]")
    for entry in entries:
        if not isinstance(entry, Mapping):
            raise ConfigError(f"{owner}: {key} holds {entry!r}; expected a config such as {{'type': 'dpo'}}")
        nested = "losses" if "losses" in entry else "loss_functions"
        _require_entries(owner, nested, entry.get(nested, ()), depth + 1)


def _distinct_names(owner: str, entries: Sequence[Mapping[str, Any]]) -> list[str]:
    chosen = [entry["name"] for entry in entries if "name" in entry]
    for name in chosen:
        if chosen.count(name) > 1:
            raise ConfigError(f"{owner}: the name {name!r} is given to more than one of the loss_functions")
    names: list[str] = []
    for entry in entries:
        kind = name = entry.get("name") or str(entry.get("type", "loss"))
        number = 1
        while "name" not in entry and name in (*chosen, *names):
            number += 1
            name = f"{kind}_{number}"
        names.append(name)
    return names
