"""What a loss decides as it runs: which of several is largest, and what lies beyond a threshold that passes no gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from loss_conformance.cases.case import Case
from loss_conformance.trial import Trial

__all__ = ["decides_otherwise"]

_COMPARES: Final = frozenset(
    ("lt", "le", "gt", "ge", "eq", "ne", "less", "less_equal", "greater", "greater_equal", "equal", "not_equal")
)
_ORDERS: Final = frozenset(("argmax", "argmin", "argsort", "max", "min", "topk", "sort", "kthvalue", "searchsorted"))


def decides_otherwise(trial: Trial, one: Case, other: Case) -> bool:
    """Return whether the loss meant to decide otherwise on two cases.

    It picked another entry as the largest or smallest, or compared detached numbers with another outcome. A branch that
    compares what the gradient flows through is the formula itself, whose pieces should meet.
    """
    mine, theirs = (_decisions(trial, case) for case in (one, other))
    return len(mine) != len(theirs) or any(not torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def _decisions(trial: Trial, case: Case) -> list[Tensor]:
    watched = _Watched()
    with watched:
        trial.evaluate(case)
    return watched.decisions


class _Watched(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.decisions: list[Tensor] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        answer = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "").strip("_")
        if name in _ORDERS:
            self.decisions += [part.clone() for part in _parts(answer) if not part.is_floating_point()]
        elif name in _COMPARES and isinstance(answer, Tensor) and not _passes_gradient(args):
            self.decisions.append(answer.clone())
        return answer


def _parts(answer: Any) -> list[Tensor]:
    return [part for part in (answer if isinstance(answer, tuple) else (answer,)) if isinstance(part, Tensor)]


def _passes_gradient(args: tuple[Any, ...]) -> bool:
    return torch.is_grad_enabled() and any(isinstance(arg, Tensor) and arg.requires_grad for arg in args)
