"""Which functions of torch a loss calls, and with what: those it calls itself, and none that are called around it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from loss_conformance.cases.case import Case
from loss_conformance.trial import Trial

__all__ = ["Call", "calls_of"]

_OURS: Final = __name__.partition(".")[0] + "."


class Call(NamedTuple):
    """One call of a function of torch.

    Attributes:
        name: of the function, without underscores at its ends: ``detach`` for ``detach_`` as well.
        trained: whether an argument depended on what is trained as the call was made.
        recorded: whether gradients were being recorded.
        decided: the numbers without gradient in the answer, indices and truths, as they were then.
    """

    name: str
    trained: bool
    recorded: bool
    decided: list[Tensor]


def calls_of(trial: Trial, case: Case, dtype: torch.dtype | None = None) -> list[Call]:
    """Return the calls that the loss makes on ``case``, in order."""
    watched = _Watched()
    with watched:
        trial.evaluate(case, dtype=dtype)
    return watched.calls


class _Watched(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        # What this package does before and after is none of the loss's.
        ours = sys._getframe(1).f_globals.get("__name__", "").startswith(_OURS)
        trained = any(isinstance(arg, Tensor) and arg.requires_grad for arg in args)
        answer = func(*args, **(kwargs or {}))
        if not ours:
            name = getattr(func, "__name__", "").strip("_")
            self.calls.append(Call(name, trained, torch.is_grad_enabled(), _decided(answer)))
        return answer


def _decided(answer: Any) -> list[Tensor]:
    parts = answer if isinstance(answer, tuple) else (answer,)
    return [part.clone() for part in parts if isinstance(part, Tensor) and not part.is_floating_point()]
