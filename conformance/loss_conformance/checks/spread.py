"""A predicted spread: it grows like the errors it is to describe, and a code is at rest at the standard normal."""

from __future__ import annotations

import math
import re
from typing import Final

import torch
from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.cases.slot import Slot
from loss_conformance.checks.conditions import unless
from loss_conformance.checks.registry import check
from loss_conformance.report.numbers import number
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["code_rests_at_standard_normal", "spread_grows_like_errors"]

_SPREADS: Final = (
    (re.compile(r"(.*_)?(log_?var(iance)?s?)(_.*)?", re.IGNORECASE), True, 2.0, "the logarithm of a variance"),
    (re.compile(r"(.*_)?(log_?(std|sigma|scale)s?)(_.*)?", re.IGNORECASE), True, 1.0, "the logarithm of a deviation"),
    (re.compile(r"(.*_)?(var|variance)s?(_.*)?", re.IGNORECASE), False, 2.0, "a variance"),
    (re.compile(r"(.*_)?(std|stddev|sigma)s?(_.*)?", re.IGNORECASE), False, 1.0, "a deviation"),
)
_MEAN: Final = re.compile(r"(.*_)?(mu|mean|means|loc)(_.*)?", re.IGNORECASE)
_ERRORS: Final = (1.0, 2.0)
_LOGARITHMS: Final = (-2.5, 2.9)
"""Between which logarithms of the spread its best value is looked for."""
_HALVINGS: Final = 40
_ASIDE: Final = 0.25
"""How far beside the logarithm of the standard deviation, 0, the slopes are looked at."""
_POWERS: Final = (0.5, 1.0, 2.0, 4.0)
_NEAR: Final = 0.05


@check(
    group="positivity",
    statement="The predicted spread that suits errors twice as large is twice as large, a variance four times.",
    over=("typical", "full"),
    why="A deviation taken for a variance is learnt as the square of what it is called: every interval is too wide or narrow.",
    cause="std where the likelihood wants var, or exp(log_var) where it wants exp(log_var / 2).",
    fix="var = exp(log_var) = std**2; nll = 0.5 * (log(var) + (x - mean)**2 / var).",
    seen_in="unit8co/darts#1162",
    applies=lambda trial: unless("stochastic", "stateful")(trial) or _unless_spread(trial),
    most_cases=1,
)
def spread_grows_like_errors(trial: Trial) -> None:
    mean, spread = _mean_and_spread(trial.case)
    target = _target(trial, mean)
    is_log, power, kind = _kind(spread)
    best = [_best_logarithm(trial, mean, spread, target, error, is_log) for error in _ERRORS]
    grown = (best[1] - best[0]) / math.log(_ERRORS[1] / _ERRORS[0])
    if abs(grown - power) <= _NEAR:
        return
    if not any(abs(grown - other) <= _NEAR for other in _POWERS):
        raise NotExercised(f"its best {spread.key} grows with the errors in a way of its own")
    raise Broken(
        f"{spread.key}, {kind}, is best {number(2.0**grown)} times as large",
        f"{number(2.0**power)} times",
        changed=f"every {target.key} {_ERRORS[1]:g} instead of {_ERRORS[0]:g} away from {mean.key}",
        guessed=not trial.facts.any_promised,
    )


@check(
    group="positivity",
    statement="At mean 0 and deviation 1 a divergence from the standard normal is at rest: no gradient moves the code.",
    over=("typical", "full"),
    why="With any other point of rest the codes that are sampled later are not those the decoder was trained on.",
    cause="the logarithm of the variance taken for the deviation, exp(log_var) for exp(2 log_std), or a term left out.",
    fix="kl = -0.5 * (1 + log_var - mean**2 - exp(log_var)).",
    seen_in="deepchem/deepchem#4888",
    applies=lambda trial: unless("stochastic", "stateful")(trial) or _unless_spread(trial),
    most_cases=1,
)
def code_rests_at_standard_normal(trial: Trial) -> None:
    mean, spread = _mean_and_spread(trial.case)
    if sum(_MEAN.fullmatch(slot.name) is not None for slot in trial.case.slots()) > 1:
        raise NotExercised("it has more than one mean, which may be compared with each other")
    is_log, _, kind = _kind(spread)

    def slopes(of_mean: float, logarithm: float) -> tuple[Tensor, Tensor]:
        at = _with(trial.case, mean, of_mean, spread, logarithm if is_log else math.exp(logarithm))
        got = trial.evaluate(at).gradients
        if not all(bool(torch.isfinite(got[slot.key]).all()) for slot in (mean, spread)):
            raise NotExercised("it is not finite there, which other checks say")
        return got[mean.key], got[spread.key]

    at_rest, tilted = slopes(0.0, 0.0)
    usual = trial.finite_base.gradients
    bound = max(trial.gradient_tolerance(slot.key, usual[slot.key]).bound for slot in (mean, spread))
    if bool((at_rest.abs() > bound).any()) or not bool((slopes(1.0, 0.0)[0] > 0).all()):
        raise NotExercised(
            f"{mean.key} is pulled elsewhere than to 0: it is no divergence from the standard normal alone"
        )
    wider, narrower = slopes(0.0, _ASIDE)[1], slopes(0.0, -_ASIDE)[1]
    if not any(bool(slope.any()) for slope in (tilted, wider, narrower)):
        raise NotExercised(f"it leaves {spread.key} alone near there: so much divergence is free")
    if bool((tilted.abs() <= bound).all() & (wider > 0).all() & (narrower < 0).all()):
        return
    raise Broken(
        f"gradients of {spread.key}, {kind}, from {number(narrower.min())} below to {number(tilted.abs().max())} there and "
        f"{number(wider.min())} above",
        "below 0, 0 and above 0",
        changed=f"{mean.key} = 0, {spread.key} = {0 if is_log else 1} and a little aside",
        tolerance=f"{bound:.1e}",
        guessed=not trial.facts.any_promised,
    )


def _unless_spread(trial: Trial) -> str | None:
    try:
        _mean_and_spread(trial.case)
    except NotExercised as missing:
        return str(missing)
    return None


def _mean_and_spread(case: Case) -> tuple[Slot, Slot]:
    trained = [slot for slot in case.slots() if slot.trainable and not slot.integer]
    spreads = [slot for slot in trained if any(name.fullmatch(slot.name) for name, *_ in _SPREADS)]
    if len(spreads) != 1:
        raise NotExercised("it is trained through no predicted spread")
    means = [slot for slot in trained if slot is not spreads[0] and slot.shape == spreads[0].shape]
    named = [slot for slot in means if _MEAN.fullmatch(slot.name)] or means
    if len(named) != 1:
        raise NotExercised("it is trained through no predicted mean beside the spread")
    return named[0], spreads[0]


def _kind(spread: Slot) -> tuple[bool, float, str]:
    return next((log, power, words) for name, log, power, words in _SPREADS if name.fullmatch(spread.name))


def _target(trial: Trial, mean: Slot) -> Slot:
    """Return the constant the mean is compared with: moving both together leaves L as it is."""
    others = [s for s in trial.case.slots() if not s.trainable and s.shape == mean.shape and s.role == "values"]
    for slot in others:
        moved = {s.key: trial.case.tensor(s) + 0.5 for s in (mean, slot)}
        if not any(trial.moves(trial.finite_base, trial.evaluate(trial.case.with_tensors(moved)))):
            return slot
    raise NotExercised(f"nothing is compared with {mean.key} by its difference")


def _with(case: Case, one: Slot, value: float, other: Slot, beside: float) -> Case:
    filled = {one.key: torch.full_like(case.tensor(one), value), other.key: torch.full_like(case.tensor(other), beside)}
    return case.with_tensors(filled)


def _best_logarithm(trial: Trial, mean: Slot, spread: Slot, target: Slot, error: float, is_log: bool) -> float:
    """Return the logarithm of the spread at which L is lowest when every error is ``error``, by halving."""
    case = trial.case.with_tensors({mean.key: torch.zeros_like(trial.case.tensor(mean))})

    def slope(x: float) -> float:
        at = _with(case, target, error, spread, x if is_log else math.exp(x))
        return float(trial.evaluate(at).gradients[spread.key].sum())

    low, high = _LOGARITHMS
    if not (slope(low) < 0 < slope(high)):
        raise NotExercised("no spread suits the errors best")
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return (low + high) / 2
