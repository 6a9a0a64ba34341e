"""Copies of a loss, whatever it holds."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

__all__ = ["copy_of"]


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
