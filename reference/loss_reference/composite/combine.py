"""The weighted sum every composite shares: L = sum_i w_i L_i, with each part's metrics under the part's name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from loss_reference.interface import LossResult
from loss_reference.settings import ConfigError

__all__ = ["Weight", "combine", "finite_weights", "split_result", "weighted_sum", "with_metrics"]

Weight: TypeAlias = float | Tensor


def split_result(name: str, result: LossResult) -> tuple[Tensor, dict[str, Any] | None]:
    """Return (loss, metrics) of one part, metrics ``None`` when it returned a plain tensor.

    Raises:
        ValueError: the loss is not a 0-dim tensor; a sum of parts would broadcast it silently.
    """
    loss, metrics = result if isinstance(result, tuple) else (result, None)
    if not isinstance(loss, Tensor) or loss.dim() != 0:
        found = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f"the part {name!r} gave {found}; expected a 0-dim tensor")
    return loss, metrics


def weighted_sum(losses: Sequence[Tensor], weights: Sequence[Weight]) -> Tensor:
    """Return sum_i w_i L_i, a 0-dim tensor, of losses and weights that are 0-dim tensors or numbers; at least one loss."""
    # Added in pairs, not one after the other: of tens of thousands of sequences each keeps its digits.
    return torch.stack([w * loss for w, loss in zip(weights, losses, strict=True)]).sum()


def with_metrics(total: Tensor, parts: Iterable[tuple[str, Weight, LossResult]]) -> LossResult:
    """Return ``total``, or (``total``, metrics) when any part returned metrics, kept as ``"name/metric"``."""
    found = {name: split_result(name, result)[1] for name, _, result in parts}
    if all(metrics is None for metrics in found.values()):
        return total
    return total, {f"{name}/{key}": value for name, metrics in found.items() for key, value in (metrics or {}).items()}


def combine(parts: Iterable[tuple[str, Weight, LossResult]]) -> LossResult:
    """Return the weighted sum of named parts: a plain tensor, or (tensor, metrics) when any part returned metrics.

    Metrics are kept as ``"name/metric"``. Linear in each weight, and the gradient is sum_i w_i grad L_i.

    Raises:
        ValueError: no parts, or a part that is not a 0-dim tensor.
    """
    parts = list(parts)
    if not parts:
        raise ValueError("nothing to add up: there are no parts, or every weight is 0")
    losses = [split_result(name, result)[0] for name, _, result in parts]
    return with_metrics(weighted_sum(losses, [weight for _, weight, _ in parts]), parts)


def finite_weights(owner: str, key: str, weights: Any, count: int) -> list[float]:
    """Return ``weights`` as floats, checked: a sequence with one for each loss, each finite, not all 0.

    Raises:
        ConfigError: quotes the loss, the key and what is wrong.
    """
    if isinstance(weights, str) or not isinstance(weights, Sequence):
        raise ConfigError(f"{owner}: {key}={weights!r}; expected a list of numbers, one for each of {count} losses")
    if len(weights) != count:
        raise ConfigError(f"{owner}: {len(weights)} {key} for {count} losses; expected one weight for each")
    for weight in weights:
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
            raise ConfigError(f"{owner}: {key} holds {weight!r}; expected finite numbers")
    if not any(weights):
        raise ConfigError(f"{owner}: every one of the {key} is 0; there would be nothing to train on")
    return [float(weight) for weight in weights]
