"""Half precision: bfloat16 inputs, as mixed precision hands them over."""

from __future__ import annotations

from typing import Final

import torch

from loss_conformance.checks.finite import first_nonfinite
from loss_conformance.checks.registry import check
from loss_conformance.evaluation import LossRaised
from loss_conformance.report.numbers import number
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["bfloat16_inputs"]

OPERATIONS: Final = 8
"""Roundings to half precision a sound loss may need: of its inputs, and of what it gives back."""


@check(
    group="stability",
    statement="On bfloat16 inputs L and its gradient are finite, and L agrees with float64 to the precision of bfloat16.",
    over=("typical", "full", "certain", "holes"),
    why="Models hand over half precision; a clamp of 1e-8 written for float32 is 0 there, and index writes refuse mixed dtypes.",
    cause="1 - eps or a small eps that rounds away, scatter into a float32 buffer, a sum of many terms in half precision.",
    fix="Widen what arrives, x.float(), compute and reduce in float32.",
    seen_in="huggingface/sentence-transformers@c81d3e5a",
    requires=("scalar_output", "finite_value", "finite_gradient"),
    own_batch=True,
)
def bfloat16_inputs(trial: Trial) -> None:
    rounded = trial.case.cast(torch.bfloat16)
    exact = trial.evaluate(rounded.cast(trial.bench.dtype))
    if not bool(torch.isfinite(exact.value)) or first_nonfinite(exact):
        raise NotExercised("the loss is not finite on the rounded inputs in full precision either")
    try:
        got = trial.evaluate(rounded)
    except LossRaised as raised:
        if "not implemented for" in str(raised):
            raise NotExercised(f"torch has no such kernel: {raised}") from None
        raise Broken(f"it raised {raised}", "a loss", traceback=raised.traceback, guessed=trial.foreign) from None
    lost = f"loss = {number(got.value)}" if not bool(torch.isfinite(got.value)) else first_nonfinite(got)
    if lost:
        raise Broken(f"{lost} in bfloat16", f"finite: in full precision {number(exact.value)}", guessed=trial.foreign)
    eps = torch.finfo(torch.bfloat16).eps
    bound = OPERATIONS * eps * (1.0 + float(exact.value.abs()) + exact.sensitivity)
    if not bool((got.value.to(torch.float64) - exact.value).abs() <= bound):
        tolerance = f"{bound:.1e} ({OPERATIONS} ulp bfloat16 of the value and its sensitivity)"
        raise Broken(got.value, exact.value, tolerance=tolerance, guessed=trial.foreign)
