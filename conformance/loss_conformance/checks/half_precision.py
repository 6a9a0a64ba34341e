"""Half precision: inputs of 16 bits, as a model run in mixed precision hands them over."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import torch

from loss_conformance.cases.case import Case
from loss_conformance.cases.perturb import perturbed, shifted
from loss_conformance.checks.conditions import unless
from loss_conformance.checks.finite import first_nonfinite
from loss_conformance.checks.registry import check
from loss_conformance.evaluation import Evaluation, LossRaised
from loss_conformance.report.numbers import number
from loss_conformance.rounded_products import PRODUCTS, SUMS, RoundedProducts
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["bfloat16_inputs", "float16_inputs", "require_agreement", "short_name"]

OPERATIONS: Final = 8
"""Roundings to half precision a sound loss may need: of its inputs, and of what it gives back."""
PERTURBATIONS: Final = 8


@check(
    group="stability",
    statement="On bfloat16 inputs L and its gradient are finite, and agree with float64 to the precision of bfloat16.",
    over=("typical", "full", "certain", "holes"),
    why="Models hand over half precision; a clamp of 1e-8 written for float32 is 0 there, and index writes refuse mixed dtypes.",
    cause="1 - eps or a small eps that rounds away, scatter into a float32 buffer, a sum of many terms in half precision.",
    fix="Widen what arrives, x.float(), compute and reduce in float32.",
    seen_in="huggingface/sentence-transformers@c81d3e5a",
    applies=unless("stochastic"),
    requires=("scalar_output", "finite_value", "finite_gradient"),
    own_batch=True,
)
def bfloat16_inputs(trial: Trial) -> None:
    dtype = torch.bfloat16
    require_agreement(trial, trial.case.cast(dtype), dtype, "in bfloat16", guessed=trial.foreign)


@check(
    group="stability",
    statement="On float16 inputs L and its gradient are finite, and agree with float64 to the precision of float16.",
    over=("typical", "full", "certain", "holes"),
    why="float16 ends at 65504 and its smallest step is 6e-8: -1e9 cannot be written in it, and an eps of 1e-8 is exactly 0.",
    cause="masked_fill(mask, -1e9), log(p + 1e-8), exp of more than 11, a sum or a square above 65504.",
    fix="Widen what arrives, x.float(), before anything else; mask with -inf or torch.finfo(x.dtype).min.",
    seen_in="KevinMusgrave/pytorch-metric-learning@b03af31",
    applies=unless("stochastic"),
    requires=("scalar_output", "finite_value", "finite_gradient"),
    own_batch=True,
)
def float16_inputs(trial: Trial) -> None:
    dtype = torch.float16
    # Nobody who declares nothing has said that float16, with its narrow range, is what they train in.
    guessed = trial.foreign or not trial.facts.any_promised or _certain(trial)
    # What raises is noticed at the first step, by those whom it concerns.
    require_agreement(trial, trial.case.cast(dtype), dtype, "in float16", guessed, crash_guessed=True)


def _certain(trial: Trial) -> bool:
    """Return whether the case is one where probabilities are 0 in float16 and still numbers in every wider precision."""
    return trial.case.plan is not None and trial.case.plan.regime == "certain"


def require_agreement(
    trial: Trial,
    fed: Case,
    dtype: torch.dtype,
    where: str,
    guessed: bool,
    crash_guessed: bool = False,
    rounding: tuple[str, ...] = (*PRODUCTS, *SUMS),
    **how: Any,
) -> None:
    """Demand that L and its gradient on ``fed`` are finite and as accurate as half precision allows.

    The bound is c (eps |x| + how far one rounding of every input and product moves the exact result).

    Args:
        trial: what is tried.
        fed: the inputs as the loss gets them; the exact result is that of the same numbers in full precision.
        dtype: the precision agreement is demanded to.
        where: in words, for the message.
        guessed: report as advice.
        crash_guessed: report as advice what raises.
        rounding: the operations that may round to half precision without being blamed for it.
        how: how the loss is evaluated on ``fed``.
    """
    wide = fed.cast(trial.bench.dtype)
    exact = trial.evaluate(wide)
    if not bool(torch.isfinite(exact.value)) or first_nonfinite(exact):
        raise NotExercised("the loss is not finite on the rounded inputs in full precision either")
    try:
        got = trial.evaluate(fed, **how)
    except LossRaised as raised:
        if "not implemented for" in str(raised):
            raise NotExercised(f"torch has no such kernel: {raised}") from None
        said = f"{raised.where} raised {raised} {where}"
        raise Broken(said, "a loss", traceback=raised.traceback, guessed=guessed or crash_guessed) from None
    lost = f"loss = {number(got.value)}" if not bool(torch.isfinite(got.value)) else first_nonfinite(got)
    if lost:
        raise Broken(f"{lost} {where}", f"finite: in full precision {number(exact.value)}", guessed=guessed)
    eps = torch.finfo(dtype).eps

    def moved_by_rounding() -> list[Evaluation]:
        moves = [move(wide, seed, eps) for move in (perturbed, shifted) for seed in range(PERTURBATIONS)]
        return [
            trial.evaluate(move, within=partial(RoundedProducts, eps, seed, rounding))
            for seed, move in enumerate(moves)
        ]

    _require_close(trial, got, exact, dtype, where, guessed, moved_by_rounding)


def _require_close(
    trial: Trial,
    got: Evaluation,
    exact: Evaluation,
    dtype: torch.dtype,
    where: str,
    guessed: bool,
    moved_by_rounding: Callable[[], list[Evaluation]],
) -> None:
    eps = torch.finfo(dtype).eps
    ulp = f"ulp {short_name(dtype)}"
    results = {"loss": (got.value, exact.value, 1.0 + float(exact.value.abs()) + exact.sensitivity)}
    steepest = max((float(g.abs().amax()) for g in exact.gradients.values() if g.numel()), default=0.0)
    for key, gradient in exact.gradients.items():
        # Where one gradient cancels to 0, what cancelled is of the size of the others.
        largest = max(steepest, trial.bench.usual_gradients.get(key, 0.0))
        results[f"gradient of {key}"] = (got.gradients[key], gradient, largest)
    smallest = torch.finfo(dtype).smallest_normal * eps
    for what, (narrow, wanted, magnitude) in results.items():
        difference = (narrow.to(torch.float64) - wanted.to(torch.float64)).abs()
        if not difference.numel() or float(difference.max()) <= OPERATIONS * (eps * magnitude + smallest):
            continue
        # Only now is it worth asking how far rounding alone may move it: a hinge, a small temperature.
        others = moved_by_rounding()
        spread = [(e.value if what == "loss" else e.gradients[what.removeprefix("gradient of ")]) for e in others]
        moved = max(float(torch.nan_to_num(e.to(torch.float64) - wanted).abs().max()) for e in spread)
        bound = OPERATIONS * (eps * magnitude + smallest + moved)
        if float(difference.max()) <= bound:
            continue
        worst = int(difference.argmax())
        raise Broken(
            f"{what} = {number(narrow.flatten()[worst])} {where}",
            f"{number(wanted.flatten()[worst])} in full precision, of the same inputs",
            tolerance=f"{bound:.1e} ({OPERATIONS} × ({ulp} of {magnitude:.3g} + {moved:.1e} from rounding))",
            of_gradient=what != "loss",
            guessed=guessed,
        )


def short_name(dtype: torch.dtype) -> str:
    """Return ``"bfloat16"`` for ``torch.bfloat16``."""
    return str(dtype).removeprefix("torch.")
