"""Precision: float32 against the same function in float64."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.checks.registry import check
from loss_conformance.report.numbers import number
from loss_conformance.tolerance import OPERATIONS_PER_TERM
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["float32_accuracy"]

EPS: Final = torch.finfo(torch.float32).eps
PERTURBATIONS: Final = 3


@check(
    group="stability",
    statement="In float32, L and its gradient are as accurate as rounding of the inputs allows, measured against float64.",
    over=("typical", "saturated", "certain", "off_policy", "full"),
    why="Cancellation eats the gradient long before anything becomes NaN: confident tokens stop training.",
    cause="log(1 - p), log(sum(exp)), a product of probabilities, or a sum accumulated in half precision.",
    fix="Use log1p, expm1, logsumexp and log-probabilities throughout.",
    seen_in="kornia/kornia@fdb5d39bf",
    requires=("scalar_output", "finite_value"),
    own_batch=True,
)
def float32_accuracy(trial: Trial) -> None:
    if trial.bench.dtype is not torch.float64:
        raise NotExercised("the loss takes no float64 inputs")
    exact = trial.finite_base
    got = trial.evaluate(trial.case, dtype=torch.float32)
    noise = [trial.evaluate(_perturbed(trial.case, seed)) for seed in range(PERTURBATIONS)]
    terms = trial.case.terms
    _require(trial, "loss", got.value, exact.value, [e.value for e in noise], 1.0 + float(exact.value.abs()), terms)
    for key, wanted in exact.gradients.items():
        largest = max(float(wanted[torch.isfinite(wanted)].abs().amax()), trial.bench.usual_gradients.get(key, 0.0))
        _require(
            trial, f"gradient of {key}", got.gradients[key], wanted, [e.gradients[key] for e in noise], largest, terms
        )


def _require(
    trial: Trial, what: str, got: Tensor, wanted: Tensor, noise: list[Tensor], magnitude: float, terms: int
) -> None:
    """Demand |got - wanted| ≤ (n + c) (eps magnitude + how far rounding the inputs moves the exact result)."""
    moved = max(float(torch.nan_to_num(e - wanted).abs().amax()) for e in noise)
    ulps = terms + OPERATIONS_PER_TERM
    bound = ulps * (EPS * magnitude + moved)
    difference = (got.to(torch.float64) - wanted).abs()
    if bool((difference <= bound).all()):
        return
    worst = int(torch.nan_to_num(difference, nan=torch.inf).argmax())
    if not bool(torch.isfinite(wanted.flatten()[worst])):
        return
    raise Broken(
        f"{what} = {number(got.flatten()[worst])} in float32",
        f"{number(wanted.flatten()[worst])} in float64",
        tolerance=f"{bound:.1e} ({ulps} × (float32 ulp of {magnitude:.3g} + {moved:.1e} from rounded inputs))",
    )


def _perturbed(case: Case, seed: int) -> Case:
    """Return the case with every real input moved by one float32 rounding, up or down at random."""
    generator = torch.Generator().manual_seed(seed)
    moved = {}
    for slot in case.slots():
        tensor = case.tensor(slot)
        if slot.movable:
            sign = torch.randint(2, tensor.shape, generator=generator) * 2 - 1
            moved[slot.key] = tensor * (1 + sign * EPS / 2)
    return case.with_tensors(moved)
