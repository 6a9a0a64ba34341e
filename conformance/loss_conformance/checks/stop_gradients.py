"""Whether a loss stops gradients itself: what it detaches, or computes without a graph, it may mean to be constant."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any, Final

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from loss_conformance.trial import Trial

__all__ = ["stops_gradients"]

_OURS: Final = __name__.partition(".")[0] + "."


def stops_gradients(trial: Trial) -> bool:
    """Return whether the loss detaches something that depends on what is trained, or computes with it under ``no_grad``."""
    watched = _Watched()
    with watched:
        trial.evaluate(trial.case)
    return watched.stopped


class _Watched(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.stopped = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        if not self.stopped and any(isinstance(arg, Tensor) and arg.requires_grad for arg in args):
            stops = not torch.is_grad_enabled() or getattr(func, "__name__", "") in ("detach", "detach_")
            # What this package does to the value afterwards is none of the loss's.
            self.stopped = stops and not sys._getframe(1).f_globals.get("__name__", "").startswith(_OURS)
        return func(*args, **(kwargs or {}))
