"""The parts of a composite that has a name for each: created from their configs, evaluated on read-only views."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loss_reference.interface import Batch, LossFunction, LossResult, Outputs
from loss_reference.registry import create_loss_function
from loss_reference.settings import ConfigError
from loss_reference.view import ReadOnlyView

__all__ = ["create_part", "result_of_part"]


def create_part(owner: str, key: str, config: Any) -> LossFunction:
    """Return the loss that ``config`` describes, the part ``key`` of the composite ``owner``.

    Raises:
        ConfigError: it is no mapping with a ``type``, or has a ``weight`` or ``name``, which are the composite's to say.
        ValueError: unknown type, unknown setting, or a value out of range.
    """
    if not isinstance(config, Mapping) or "type" not in config:
        raise ConfigError(f"{owner}: {key}={config!r}; expected a config such as {{'type': 'nll'}}")
    for word in ("weight", "name"):
        if word in config:
            raise ConfigError(f"{owner}: {key} has a {word!r}, which nothing reads here")
    return create_loss_function(config)


def result_of_part(part: LossFunction, batch: Batch, model_outputs: Outputs) -> LossResult:
    """Return what the part returns; it can read the batch and not change it."""
    return part.compute_loss(ReadOnlyView(batch), ReadOnlyView(model_outputs))
