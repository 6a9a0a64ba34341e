"""Copies of a loss, whatever it holds."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

__all__ = ["copy_of", "tensors_held"]


def copy_of(loss: Any) -> Any:
    """Return a deep copy of ``loss``.

    Torch refuses to copy a tensor that is the result of a computation, such as the last loss somebody keeps for
    logging; those are copied detached.
    """
    results: dict[int, Any] = {}
    for module in loss.modules() if isinstance(loss, nn.Module) else [loss]:
        for value in vars(module).values() if hasattr(module, "__dict__") else ():
            if isinstance(value, Tensor) and not value.is_leaf:
                results[id(value)] = value.detach().clone()
    return copy.deepcopy(loss, results)


def tensors_held(loss: Any) -> dict[str, Tensor]:
    """Return a copy of every tensor an object keeps between calls, parameters left out, by where it is kept."""
    held = {}
    for position, module in enumerate(loss.modules() if isinstance(loss, nn.Module) else [loss]):
        attributes = dict(vars(module)) if hasattr(module, "__dict__") else {}
        buffers = attributes.pop("_buffers", {})
        for name, value in {**attributes, **buffers}.items():
            if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                held[f"{position}.{name}"] = value.detach().clone()
    return held
