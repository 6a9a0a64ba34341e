"""What two ranks gave, held against the whole batch on one."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.cases.shares import axis_of_share, joined
from loss_conformance.evaluation import Evaluation
from loss_conformance.ranks.threads import WORLD
from loss_conformance.report.numbers import number
from loss_conformance.tolerance import value_tolerance
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["require_whole"]

ALLOWED_VALUES: Final = (1, WORLD, WORLD**2)
"""Sum of the values over the ranks, in values of the whole: they add up, they are means, or means times the world size."""
ALLOWED_GRADIENTS: Final = (1, WORLD)
"""Gradient of the rows of a rank, in that of the whole: gradients are added up over ranks, or averaged as DDP does."""


def require_whole(trial: Trial, shares: list[Case], got: list[Evaluation]) -> None:
    """Demand that what the ranks gave adds up, or averages, to what the whole batch gives: value and gradient.

    Raises:
        Broken: it does not; as advice where only the scale of the gradient is in doubt.
        NotExercised: the ranks have nothing to do with each other.
    """
    whole_case = joined(shares)
    whole = trial.evaluate(whole_case)
    if not bool(torch.isfinite(whole.value)):
        raise NotExercised("the loss is not finite on the whole batch")
    guess = _guess(trial, shares, got)
    _require_value(trial, whole_case, whole, got, guess)
    factor = _require_gradients(trial, whole_case, whole, shares, got, guess)
    total = sum(float(e.value) for e in got)
    near = value_tolerance(whole, whole_case, trial.eps).bound * WORLD
    mean = abs(total - WORLD * float(whole.value)) <= near < abs(total - float(whole.value))
    if factor == 1 and mean:
        raise Broken(
            "the mean of the ranks is L of the whole batch, the mean of their gradients half of its gradient",
            "value and gradient of one scale",
            changed=_changed(shares),
            cause="a collective without a backward of its own: averaging over ranks, as DDP does, divides the gradient.",
            guessed=True,
        )


def _guess(trial: Trial, shares: list[Case], got: list[Evaluation]) -> bool:
    """Return whether what is wrong may be meant: ranks of unequal weight that divide by what they hold themselves."""
    contract, promised = trial.facts.contract, trial.facts.promised("normalizer")
    if promised and contract.normalizer == "global":
        return trial.foreign
    if all(_same(trial, share, trial.evaluate(share), e) for share, e in zip(shares, got, strict=True)):
        raise NotExercised("what the other ranks hold changes nothing")
    weights = [(float(share.weight.sum()), float(share.rows.sum())) for share in shares]
    unequal = len(set(weights)) > 1
    if unequal and promised and contract.normalizer == "local":
        raise NotExercised("the shares weigh differently, and each rank divides by its own")
    return trial.foreign or unequal


def _same(trial: Trial, case: Case, alone: Evaluation, together: Evaluation) -> bool:
    for factor in ALLOWED_GRADIENTS:
        near = 2 * factor * value_tolerance(alone, case, trial.eps).bound
        if abs(float(together.value) - factor * float(alone.value)) <= near:
            return all(
                bool(
                    (
                        (together.gradients[key] - factor * g).abs() <= trial.gradient_tolerance(key, factor * g).bound
                    ).all()
                )
                for key, g in alone.gradients.items()
            )
    return False


def _require_value(trial: Trial, case: Case, whole: Evaluation, got: list[Evaluation], guess: bool) -> None:
    total = torch.stack([e.value for e in got]).sum()
    bound = sum(value_tolerance(e, case, trial.eps).bound for e in (*got, whole))
    if not any(bool((total - f * whole.value).abs() <= f * bound) for f in ALLOWED_VALUES):
        values = " and ".join(number(e.value) for e in got)
        raise Broken(
            f"{values} on {WORLD} ranks",
            f"values that add up, or average, to {number(whole.value)}",
            changed=f"a batch of {len(case.rows)} rows dealt out to {WORLD} ranks",
            tolerance=f"{bound:.1e}",
            guessed=guess,
        )


def _require_gradients(
    trial: Trial, case: Case, whole: Evaluation, shares: list[Case], got: list[Evaluation], guess: bool
) -> int:
    """Demand that the gradients of the ranks' rows are those of the whole, times one common factor; return it."""
    dealt: dict[str, Tensor] = {}
    for slot in case.slots():
        axis = axis_of_share(slot)
        if slot.key in whole.gradients and axis is not None:
            dealt[slot.key] = torch.cat([e.gradients[slot.key] for e in got], dim=axis)
    wanted = {key: whole.gradients[key] for key in dealt}
    ratio = _ratio(dealt, wanted)
    factor = min(ALLOWED_GRADIENTS, key=lambda allowed: abs(allowed - ratio))
    how: dict[str, Any] = {"guessed": guess, "cause": _cause(dealt, wanted, ratio, trial)}
    trial.require_gradients(dealt, {key: factor * g for key, g in wanted.items()}, _changed(shares), **how)
    for name in {**whole.parameters, **whole.gradients}:
        if name not in dealt:
            each = [{**e.parameters, **e.gradients}[name] for e in got]
            _require_multiple(trial, name, torch.stack(each).sum(0), whole, shares, guess)
    return factor


def _require_multiple(
    trial: Trial, name: str, total: Tensor, whole: Evaluation, shares: list[Case], guess: bool
) -> None:
    """Demand that what every rank trains gets a multiple of the gradient of the whole, summed over the ranks."""
    of_whole = {**whole.parameters, **whole.gradients}[name]
    ratio = _ratio({name: total}, {name: of_whole})
    factor = min(ALLOWED_VALUES, key=lambda allowed: abs(allowed - ratio))
    # Where every row adds to it, what cancels is of the size of the other gradients.
    steepest = max((g.abs().amax() for g in whole.gradients.values() if g.numel()), default=total.new_zeros(()))
    bound = trial.gradient_tolerance(name, factor * torch.cat((of_whole.flatten(), steepest.reshape(1)))).bound
    if not bool(((total - factor * of_whole).abs() <= bound).all()):
        raise Broken(
            f"gradients of {name} that add up to {number(total.flatten()[0])}",
            f"1, {WORLD} or {WORLD**2} times {number(of_whole.flatten()[0])}",
            changed=_changed(shares),
            tolerance=f"{bound:.1e}",
            guessed=guess,
        )


def _ratio(got: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """Return the factor that brings the wanted gradients nearest to the others."""
    square = sum(float(g.square().sum()) for g in wanted.values())
    return sum(float((got[key] * g).sum()) for key, g in wanted.items()) / square if square else 1.0


def _cause(dealt: dict[str, Tensor], wanted: dict[str, Tensor], ratio: float, trial: Trial) -> str:
    off = {
        key: bool(((dealt[key] - ratio * g).abs() > trial.gradient_tolerance(key, g).bound).any())
        for key, g in wanted.items()
    }
    if ratio and not any(off.values()):
        return f"every gradient is {ratio:.4g} times that of the whole batch: a count or a factor of the world size too many."
    return ""


def _changed(shares: list[Case]) -> str:
    return f"a batch of {sum(len(share.rows) for share in shares)} rows dealt out to {len(shares)} ranks"
