"""Precision: float32 against the same function in float64."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from loss_conformance.cases.off_ties import off_ties
from loss_conformance.cases.perturb import perturbed, shares
from loss_conformance.cases.slot import Slot
from loss_conformance.checks.conditions import unless
from loss_conformance.checks.registry import check
from loss_conformance.report.numbers import number
from loss_conformance.tolerance import OPERATIONS_PER_TERM
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["float32_accuracy", "no_half_precision_inside"]

EPS: Final = torch.finfo(torch.float32).eps
PERTURBATIONS: Final = 3
ROUNDINGS_OF_P: Final = 4
"""p is rounded where it is formed, forward and backward, and where it is taken from 1."""
STEP: Final = 2.0**-11
COARSE: Final = 0.5
FINER: Final = 8.0
FAR_SMALLER: Final = 64.0


@check(
    group="stability",
    statement="In float32, L and its gradient are as accurate as rounding of the inputs allows, measured against float64.",
    over=("typical", "saturated", "certain", "off_policy", "full"),
    why="Cancellation eats the gradient long before anything becomes NaN: confident tokens stop training.",
    cause="log(1 - p), log(sum(exp)), a product of probabilities, or a sum accumulated in half precision.",
    fix="Use log1p, expm1, logsumexp and log-probabilities throughout.",
    applies=unless("stochastic"),  # another precision draws other numbers
    seen_in="kornia/kornia@fdb5d39bf",
    requires=("scalar_output", "finite_value", "trainables_receive_gradient"),
    own_batch=True,
)
def float32_accuracy(trial: Trial) -> None:
    if trial.bench.dtype is not torch.float64:
        raise NotExercised("the loss takes no float64 inputs")
    exact = trial.finite_base
    got = trial.in_float32
    noise = [trial.evaluate(perturbed(trial.case, seed, EPS)) for seed in range(PERTURBATIONS)]
    terms = trial.case.terms
    value_noise = [e.value for e in noise]
    _require(trial, "loss", got.value, exact.value, value_noise, 1.0 + float(exact.value.abs()), terms, 0.0)
    # Where one gradient cancels to 0, what cancelled is of the size of the others.
    finite = [g[torch.isfinite(g)].abs() for g in exact.gradients.values()]
    steepest = max((float(g.amax()) for g in finite if g.numel()), default=0.0)
    for slot in trial.case.slots():
        if slot.key not in exact.gradients:
            continue
        wanted, gradient_noise = exact.gradients[slot.key], [e.gradients[slot.key] for e in noise]
        largest = max(steepest, trial.bench.usual_gradients.get(slot.key, 0.0))
        of_softmax = _rounding_of_softmax(slot, trial.case.tensor(slot), wanted)
        what = f"gradient of {slot.key}"
        _require(trial, what, got.gradients[slot.key], wanted, gradient_noise, largest, terms, of_softmax)


def _rounding_of_softmax(slot: Slot, scores: Tensor, gradient: Tensor) -> Tensor | float:
    """Return the part of a gradient of scores that goes with the rounding of p, the probability of the surest class.

    Through log p the gradient is u (1 - p), u being that of log p: no better than 1 - p is, which float32 forms from p.
    """
    if slot.role != "logits" or slot.shape[-1:] != ("V",):
        return 0.0
    unsure = (1 - scores.softmax(-1).amax(-1, keepdim=True)).clamp(min=EPS)
    return ROUNDINGS_OF_P * EPS / 2 * torch.nan_to_num(gradient).abs().amax(-1, keepdim=True) / unsure


def _require(
    trial: Trial,
    what: str,
    got: Tensor,
    wanted: Tensor,
    noise: list[Tensor],
    magnitude: float,
    terms: int,
    of_softmax: Tensor | float,
) -> None:
    """Demand |got - wanted| ≤ (n + c) (eps magnitude + how far rounding the inputs moves the exact result) + ``of_softmax``."""
    moved = max(float(torch.nan_to_num(e - wanted).abs().amax()) for e in noise)
    ulps = terms + OPERATIONS_PER_TERM
    bound = ulps * (EPS * magnitude + moved)
    difference = (got.to(torch.float64) - wanted).abs()
    beyond = difference - of_softmax
    if bool((beyond <= bound).all()):
        return
    worst = int(torch.nan_to_num(beyond, nan=torch.inf).argmax())
    if not bool(torch.isfinite(wanted.flatten()[worst])):
        return
    raise Broken(
        f"{what} = {number(got.flatten()[worst])} in float32",
        f"{number(wanted.flatten()[worst])} in float64",
        tolerance=f"{bound:.1e} ({ulps} × (float32 ulp of {magnitude:.3g} + {moved:.1e} from rounded inputs))",
        # Where half the digits are left: a factor such as T ** 2 makes as much of the rounding of log-probabilities.
        guessed=float(difference.amax()) <= EPS**0.5 * magnitude,
    )


@check(
    group="stability",
    statement="L follows small changes of its inputs as its gradient says, down to a two-thousandth.",
    over=("typical", "full"),
    why="Rounded to half precision inside, the loss moves in steps of 1 %, and small improvements are lost.",
    cause=".half() or .to(torch.bfloat16) on the way, or autocast left on around the loss.",
    fix="Compute the loss in float32, whatever precision the model runs in.",
    seen_in="linkedin/Liger-Kernel@ac2e8f45",
    applies=unless("surrogate_gradient", "stochastic"),
    requires=("scalar_output", "finite_value"),
    own_batch=True,
)
def no_half_precision_inside(trial: Trial) -> None:
    steps, expected, size = _predicted(trial)
    if size <= 1e-6:
        raise NotExercised("the gradient is too small to tell")
    difference = _moved_by(trial, steps, 1.0)
    if abs(difference - expected) > COARSE * size:
        if abs(FINER * _moved_by(trial, steps, 1 / FINER) - difference) < COARSE * abs(difference):
            # Steps of half precision are of one size; what follows a smaller step in proportion is smooth.
            raise NotExercised("L is smooth and its gradient another one, which is finite_difference's to say")
        if _follows_beside(trial):
            raise NotExercised("L jumps where two numbers change places, and follows its gradient beside that")
        raise Broken(
            f"L moves by {number(difference)}",
            f"by {number(expected)}",
            changed=f"every trained number by up to {STEP:.1e} of itself",
            tolerance=f"{COARSE * size:.1e} (half of what the parts of the step amount to)",
            guessed=trial.foreign or not trial.facts.any_promised,
        )


def _predicted(trial: Trial) -> tuple[dict[str, Tensor], float, float]:
    """Return a small step of every trained number, by how much L should move, and what the parts of that amount to."""
    gradients = trial.finite_base.gradients
    steps = {slot.key: _small_step(trial.case.tensor(slot)) for slot in trial.case.slots() if slot.key in gradients}
    parts = [torch.nan_to_num(gradients[key] * step) for key, step in steps.items()]
    return steps, sum(float(part.sum()) for part in parts), sum(float(part.abs().sum()) for part in parts)


def _follows_beside(trial: Trial) -> bool:
    """Return whether L follows a far smaller step off all ties: half precision does not feel it, a selection does not jump."""
    beside = Trial(trial.bench, off_ties(trial.case))
    steps, _, size = _predicted(beside)
    uphill = {key: step.abs() * beside.base.gradients[key].sign() for key, step in steps.items()}
    rises = FAR_SMALLER * _moved_by(beside, uphill, 1 / FAR_SMALLER)
    rounding = FAR_SMALLER * EPS * (1.0 + float(beside.base.value.abs()))
    return rounding < COARSE * size and abs(rises - size) <= COARSE * size


def _moved_by(trial: Trial, steps: dict[str, Tensor], share: float) -> float:
    """Return by how much L moves when every trained number moves by this share of its step."""
    moved = trial.case.with_tensors({key: trial.case.tensors[key] + share * step for key, step in steps.items()})
    return float(trial.evaluate(moved).value - trial.base.value)


def _small_step(x: Tensor) -> Tensor:
    return torch.where(torch.isfinite(x), x * shares(x) * STEP, torch.zeros_like(x))
