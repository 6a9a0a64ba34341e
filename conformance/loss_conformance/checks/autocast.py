"""Autocast: matrix products in half precision, and what a loss makes of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Final

import torch

from loss_conformance.cases.case import Case
from loss_conformance.checks.conditions import unless
from loss_conformance.checks.half_precision import require_agreement, short_name
from loss_conformance.checks.registry import check
from loss_conformance.rounded_products import PRODUCTS, OperationsSeen
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["autocast_bfloat16", "autocast_float16"]

REFUSED: Final = "binary_cross_entropy"
"""The operation torch raises on under autocast on an accelerator, and quietly widens on a CPU."""


@check(
    group="stability",
    statement="Under autocast to bfloat16, L and its gradient are finite and agree with float64 as far as rounded products allow.",
    over=("typical", "full", "certain"),
    why="Training loops leave autocast on around the loss: products come out in bfloat16 beside inputs in float32.",
    cause="an index write or scatter between two precisions, or exp, cumsum and sums of what a product gave, unwidened.",
    fix="Widen each product, (a @ b.T).float(), or compute the loss under torch.autocast(device, enabled=False).",
    seen_in="linkedin/Liger-Kernel@ac2e8f45",
    applies=unless("stochastic"),
    requires=("scalar_output", "finite_value", "finite_gradient", "bfloat16_inputs"),
    own_batch=True,
)
def autocast_bfloat16(trial: Trial) -> None:
    _require_agreement_under(trial, torch.bfloat16)


@check(
    group="stability",
    statement="Under autocast to float16, L and its gradient are finite and agree with float64 as far as rounded products allow.",
    over=("typical", "full"),
    why="float16 is what autocast gives on most accelerators unless told otherwise; its numbers end at 65504.",
    cause="a product masked with -1e9, exponentiated or summed unwidened; F.binary_cross_entropy, which autocast refuses.",
    fix="Widen each product, (a @ b.T).float(); use F.binary_cross_entropy_with_logits on logits.",
    seen_in="fastino-ai/GLiNER2#155",
    applies=unless("stochastic"),
    requires=("scalar_output", "finite_value", "finite_gradient", "float16_inputs"),
    own_batch=True,
)
def autocast_float16(trial: Trial) -> None:
    seen = OperationsSeen()
    _require_agreement_under(trial, torch.float16, seen)
    if REFUSED in seen.names:
        raise Broken(
            f"it calls F.{REFUSED}, which raises under autocast on an accelerator",
            "an operation that autocast takes",
            guessed=True,
        )


def _require_agreement_under(trial: Trial, dtype: torch.dtype, seen: OperationsSeen | None = None) -> None:
    if not torch.amp.autocast_mode.is_autocast_available("cpu"):
        raise NotExercised("this torch has no autocast on the CPU")
    guessed = trial.foreign or not trial.facts.any_promised
    for fed, of_what in _as_handed_over(trial.case, dtype):
        require_agreement(
            trial,
            fed,
            dtype,
            f"under autocast to {short_name(dtype)}, {of_what}",
            guessed,
            crash_guessed=dtype is torch.float16,
            rounding=PRODUCTS,
            within=partial(_autocast, dtype, seen),
        )


def _as_handed_over(case: Case, dtype: torch.dtype) -> Iterator[tuple[Case, str]]:
    """Yield the case with everything in float32, and with what the model computed in half precision."""
    wide = case.cast(torch.float32)
    yield wide, "inputs in float32"
    computed = {
        slot.key: case.tensor(slot).to(dtype)
        for slot in case.slots()
        if slot.trainable and case.tensor(slot).is_floating_point()
    }
    yield wide.with_tensors(computed), f"outputs of the model in {short_name(dtype)}"


@contextlib.contextmanager
def _autocast(dtype: torch.dtype, seen: OperationsSeen | None) -> Iterator[None]:
    watching: AbstractContextManager[Any] = contextlib.nullcontext() if seen is None else seen
    with torch.autocast("cpu", dtype=dtype), watching:
        yield
