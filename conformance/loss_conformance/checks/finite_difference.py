"""The gradient of what is returned: backward against the finite difference of the value."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.checks.conditions import unless
from loss_conformance.checks.registry import check
from loss_conformance.checks.stop_gradients import stops_gradients
from loss_conformance.evaluation import Evaluation
from loss_conformance.report.numbers import number
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["finite_difference", "require_slopes"]

DIRECTIONS: Final = 3


@check(
    group="gradient_flow",
    statement="The gradient equals the finite difference of the value, along random directions.",
    over=("typical", "full", "holes", "off_policy"),
    why="At least one in seven real loss bugs has the right value and the wrong gradient.",
    cause="a factor applied to the value after backward, a detached part of the value, or a wrong custom backward.",
    fix="Differentiate the very tensor that is returned; declare Contract(surrogate_gradient=True) for stop-gradients on purpose.",
    seen_in="volcengine/verl@e160d3b2e",
    applies=unless("surrogate_gradient"),
    own_batch=True,
)
def finite_difference(trial: Trial) -> None:
    for how in (_as_called(trial), *_unreduced(trial)):
        require_slopes(trial, how)


def _as_called(trial: Trial) -> dict[str, Any]:
    """Return how to evaluate the loss; terms it returns are weighted differently, as whoever reduces them may do."""
    return {"uneven": True} if trial.facts.contract.output == "terms" else {}


def _unreduced(trial: Trial) -> list[dict[str, Any]]:
    """Return how to evaluate the loss with the setting by which it returns its terms, if it has one."""
    subject = trial.bench.subject
    if subject.rebuild is None or subject.settings.get("reduction", "none") == "none":
        return []
    try:
        how = {"loss": subject.rebuild({"reduction": "none"}), "terms": True, "uneven": True}
        value = trial.evaluate(trial.case, **how).value
    except Exception:
        return []  # not offered, which reductions_agree says
    return [how] if bool(torch.isfinite(value)) else []


def require_slopes(trial: Trial, how: dict[str, Any], *, scale_alone: bool = False) -> None:
    """Demand that backward agrees with the finite difference of the loss evaluated in this way.

    With ``scale_alone`` the first direction that shows no difference is enough: a wrong scale shows along every one.

    Raises:
        Broken: it does not; its ``cause`` names the factor by which the gradient is too large, where it is one.
    """
    base = trial.evaluate(trial.case, **how) if how else trial.finite_base
    if "loss" in how:
        base = replace(base, parameters={})  # those of the loss under test, which are moved in it alone
    if not base.gradients and not base.parameters:
        raise NotExercised("it trains nothing")
    generator = torch.Generator().manual_seed(trial.bench.seed)
    ratios = []
    for _ in range(DIRECTIONS):
        direction = _direction(trial.case, base, generator)
        gradients = {**base.gradients, **base.parameters}
        slope = sum(float((gradients[key] * v).sum()) for key, v in direction.items())
        difference = _central(trial, base, direction, how)
        allowed = difference.error + 1e-5 * abs(difference.slope) if difference is not None else 0.0
        if difference is not None and abs(slope - difference.slope) > allowed:
            ratios.append((slope, difference.slope, allowed))
        elif scale_alone:
            return
    if ratios:
        slope, wanted, allowed = ratios[0]
        every = len(ratios) == DIRECTIONS and _reaches_two_rows(trial.case, base)
        factor = _common_factor([(s, w) for s, w, _ in ratios]) if every else None
        raise Broken(
            f"slope {number(slope)} by backward",
            f"{number(wanted)} by finite difference",
            changed="each term with a weight of its own" if how else "",
            tolerance=f"{allowed:.1e} (step error of the difference)",
            cause=f"the gradient is {number(factor)} times that of the returned value." if factor is not None else "",
            declare="" if factor is not None else "Contract(surrogate_gradient=True)",
            guessed=factor is None and not _promised(trial),
            of_gradient=True,  # max(x, y) is smooth where both move alike, and backward halves it there
        )


def _promised(trial: Trial) -> bool:
    """Return whether the loss said what it is; of one that said less, what it detaches may be detached on purpose.

    So may what a loss detaches that remembers: what it keeps is made of this very batch.
    """
    said = trial.facts.promised("family") and not trial.facts.contract.stateful
    return said or (trial.facts.any_promised and not stops_gradients(trial))


@dataclass(frozen=True)
class _Difference:
    slope: float
    error: float


def _direction(case: Case, base: Evaluation, generator: torch.Generator) -> dict[str, Tensor]:
    """Return a random direction over the finite entries of all trainable inputs and the loss's own parameters."""
    direction = {}
    for key, gradient in {**base.gradients, **base.parameters}.items():
        v = torch.randn(gradient.shape, generator=generator, dtype=torch.float64).to(gradient.dtype)
        x = case.tensors.get(key, v)
        direction[key] = torch.where(torch.isfinite(x), v, torch.zeros_like(v))
    return direction


def _central(trial: Trial, base: Evaluation, direction: dict[str, Tensor], how: dict[str, Any]) -> _Difference | None:
    """Return the central difference and its error, or ``None`` beside a kink, where two steps disagree."""
    at = functools.cache(functools.partial(_value_at, trial, base, direction, how))
    scale = 1.0 + float(base.value.abs())
    step = 0.25 * trial.bench.eps ** (1 / 3)
    coarse, fine = ((at(h) - at(-h)) / (2 * h) for h in (2 * step, step))
    rounding = 64 * trial.bench.eps * scale * _reach(trial.case) / step
    if abs(coarse - fine) > rounding + 1e-2 * abs(fine):
        return None
    # Where the function is smooth the error of a one-sided difference halves with the step; at a kink it stays.
    near, far = (abs((at(h) - float(base.value)) / h - fine) for h in (step, 2 * step))
    if near > 4 * rounding and far < 1.5 * near:
        return None
    return _Difference(fine, rounding + 4 * abs(coarse - fine))


def _value_at(trial: Trial, base: Evaluation, direction: dict[str, Tensor], how: dict[str, Any], step: float) -> float:
    """Return L so far along the direction."""
    moved = {key: trial.case.tensors[key] + step * v for key, v in direction.items() if key in trial.case.tensors}
    own = {name: step * v for name, v in direction.items() if name in base.parameters}
    loss = trial.bench.caller.moved(own, trial.bench.dtype) if own else None
    beside = {"loss": loss} | how
    return float(trial.evaluate(trial.case.with_tensors(moved), only=frozenset(), **beside).value)


def _reach(case: Case) -> float:
    finite = [t[torch.isfinite(t)].abs().amax() for t in case.tensors.values() if t.is_floating_point() and t.numel()]
    return 1.0 + max((float(t) for t in finite), default=0.0)


def _reaches_two_rows(case: Case, base: Evaluation) -> bool:
    """Return whether more than one row has a gradient: within one, a weight that is held fixed is a factor like any other."""
    rows = 0
    for slot in case.slots():
        gradient = base.gradients.get(slot.key)
        if gradient is not None:
            axes = [axis for axis in range(gradient.dim()) if axis != slot.row_axis]
            reached = gradient != 0
            rows = max(rows, int((reached.any(axes) if slot.row_axis is not None and axes else reached).sum()))
    return rows + len(base.parameters) > 1


def _common_factor(pairs: list[tuple[float, float]]) -> float | None:
    """Return k when every slope is k times its difference: the sign of a wrong scale, never of a stop-gradient."""
    factors = [slope / wanted for slope, wanted in pairs if wanted != 0.0]
    if len(factors) < len(pairs) or max(factors) - min(factors) > 1e-3 * max(map(abs, factors), default=0.0):
        return None
    # Next to 1 it is a stop-gradient that hardly matters here: a wrong scale is -1, 1/2, n.
    return factors[0] if abs(factors[0] - 1.0) > 0.01 else None
