"""Copies of a loss, whatever it holds."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator, Mapping
from types import FunctionType, ModuleType
from typing import Any

from torch import Tensor, nn

__all__ = ["copy_of", "tensors_held"]


def copy_of(loss: Any) -> Any:
    """Return a deep copy of ``loss``.

    Torch refuses to copy a tensor that is the result of a computation, such as the last loss somebody keeps for
    logging; those are copied detached.
    """
    return copy.deepcopy(loss, {id(result): result.detach().clone() for result in _results(loss, set())})


def _results(holder: Any, seen: set[int]) -> Iterator[Tensor]:
    """Yield every tensor that is the result of a computation, wherever ``holder`` keeps it."""
    if id(holder) in seen:
        return
    seen.add(id(holder))
    if isinstance(holder, Tensor):
        if not holder.is_leaf:
            yield holder
        return
    kept: list[Any] = []
    if isinstance(holder, Mapping):
        kept += holder.values()
    elif isinstance(holder, list | tuple | set | frozenset | deque):
        kept += holder
    if not isinstance(holder, type | ModuleType | FunctionType) and hasattr(holder, "__dict__"):
        kept += vars(holder).values()
    for value in kept:
        yield from _results(value, seen)


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
