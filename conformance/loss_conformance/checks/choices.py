"""What a loss decides as it runs: which of several is largest, and what lies beyond a threshold that passes no gradient."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.checks.watched_calls import Call, calls_of
from loss_conformance.trial import Trial

__all__ = ["decides_otherwise", "rounds_to_another_choice"]

_COMPARES: Final = frozenset(
    ("lt", "le", "gt", "ge", "eq", "ne", "less", "less_equal", "greater", "greater_equal", "equal", "not_equal")
)
_ORDERS: Final = frozenset(("argmax", "argmin", "argsort", "max", "min", "topk", "sort", "kthvalue", "searchsorted"))


def decides_otherwise(trial: Trial, one: Case, other: Case) -> bool:
    """Return whether the loss meant to decide otherwise on two cases.

    It picked another entry as the largest or smallest, or compared detached numbers with another outcome. A branch that
    compares what the gradient flows through is the formula itself, whose pieces should meet.
    """
    return _differ(_decisions(trial, one), _decisions(trial, other))


def rounds_to_another_choice(trial: Trial, case: Case) -> bool:
    """Return whether the loss decides otherwise in float32, where what differs by little or vanishes is a tie."""
    return _differ(*(_decisions(trial, case, dtype) for dtype in (torch.float64, torch.float32)))


def _decisions(trial: Trial, case: Case, dtype: torch.dtype | None = None) -> list[Tensor]:
    return [made for call in calls_of(trial, case, dtype) if _is_a_choice(call) for made in call.decided]


def _differ(mine: list[Tensor], theirs: list[Tensor]) -> bool:
    return len(mine) != len(theirs) or any(not torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def _is_a_choice(call: Call) -> bool:
    return call.name in _ORDERS or (call.name in _COMPARES and not (call.trained and call.recorded))
