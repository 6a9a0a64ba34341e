"""What a loss returned, taken apart: the loss itself, and the metrics beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

__all__ = ["result_of"]


def result_of(returned: Any) -> tuple[Any, dict[str, Any]]:
    """Return (loss, metrics) from whatever a loss returned.

    Understood are a tensor, ``(tensor, metrics or more tensors)``, an object with an attribute ``loss`` (a named tuple
    such as that of ``AdaptiveLogSoftmaxWithLoss``, a model output), and a mapping with a key ``"loss"``. Anything else
    comes back as it is, for a check to complain about.
    """
    if isinstance(returned, Tensor):
        return returned, {}
    loss = getattr(returned, "loss", None)
    if isinstance(loss, Tensor):
        fields = getattr(returned, "_fields", ())
        return loss, {name: getattr(returned, name) for name in fields if name != "loss"}
    if isinstance(returned, Mapping) and isinstance(returned.get("loss"), Tensor):
        return returned["loss"], {name: value for name, value in returned.items() if name != "loss"}
    if isinstance(returned, tuple) and returned and isinstance(returned[0], Tensor):
        return returned[0], _metrics(returned[1:])
    return returned, {}


def _metrics(rest: tuple[Any, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for position, extra in enumerate(rest, start=1):
        if isinstance(extra, Mapping):
            found.update(extra)
        elif extra is not None:
            found[f"result[{position}]"] = extra
    return found
