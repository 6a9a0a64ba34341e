"""The interface every loss implements, and the mapping its model outputs arrive in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from loss_reference.contract import Contract
from loss_reference.settings import ConfigError, read_settings, reject_unknown_keys

__all__ = ["Batch", "LossFunction", "LossResult", "ModelOutputs", "Outputs"]

Batch: TypeAlias = Mapping[str, Tensor]
Outputs: TypeAlias = Mapping[str, Tensor]
LossResult: TypeAlias = Tensor | tuple[Tensor, dict[str, Any]]


class ModelOutputs(dict[str, Tensor]):
    """A mapping of tensors that can also be read by attribute: ``outputs.logits`` is ``outputs["logits"]``.

    A field named like a method of dict is read by key: ``outputs["values"]``, since ``outputs.values()`` lists the tensors.
    """

    def __getattr__(self, name: str) -> Tensor:
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"model outputs have no {name!r}; there are: {', '.join(self) or 'none'}") from None


class LossFunction(nn.Module):
    """A training loss: ``compute_loss(batch, model_outputs)`` gives a 0-dim tensor attached to the graph.

    What is in ``model_outputs`` is trainable and receives gradient, as do the parameters of the loss itself. What is in
    ``batch`` is constant and never receives gradient, even if it arrives with ``requires_grad``.

    Args:
        config: any mapping of settings; ``self.config`` keeps a copy of it. Settings declared with ``Setting`` are
            validated here and become attributes.

    Raises:
        ConfigError: the config is not a mapping, a value is out of range or has no effect beside the others, or a key is
            unknown to a class that lists its settings.
    """

    contract: Contract = Contract()

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        if config is not None and not isinstance(config, Mapping):
            raise ConfigError(
                f"{type(self).__name__}: config is {type(config).__name__} {config!r}; "
                "expected a mapping such as {'beta': 0.1}"
            )
        self.config: dict[str, Any] = dict(config or {})
        read_settings(self, self.config)
        reject_unknown_keys(self, self.config)

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> LossResult:
        """Return the loss, a 0-dim tensor, or a pair of it and a dict of detached metrics."""
        raise NotImplementedError(f"{type(self).__name__} must define compute_loss(self, batch, model_outputs)")

    def components(self, batch: Batch, model_outputs: Outputs) -> dict[str, Tensor]:
        """Return the named parts of the loss. A loss of one part calls it ``"loss"``."""
        result = self.compute_loss(batch, model_outputs)
        return {"loss": result[0] if isinstance(result, tuple) else result}

    def backward(self, loss: Tensor) -> None:
        """Accumulate exactly the gradient of ``loss``.

        Raises:
            ValueError: ``loss`` is not a 0-dim tensor, not finite, or not attached to a graph.
        """
        if loss.dim() != 0:
            raise ValueError(
                f"{type(self).__name__}.backward: loss has shape {tuple(loss.shape)}; expected a 0-dim tensor"
            )
        if not loss.requires_grad:
            raise ValueError(f"{type(self).__name__}.backward: loss is detached from every trainable input")
        if not bool(torch.isfinite(loss)):
            raise ValueError(
                f"{type(self).__name__}.backward: loss is {loss.item()}; its gradient would destroy the model"
            )
        loss.backward()  # type: ignore[no-untyped-call]

    def forward(self, batch: Batch, model_outputs: Outputs) -> LossResult:
        """Same as ``compute_loss``; ``loss(batch, model_outputs)`` calls it."""
        return self.compute_loss(batch, model_outputs)
