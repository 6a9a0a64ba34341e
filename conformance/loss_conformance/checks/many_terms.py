"""Many terms: what only shows once a batch is as large as in training."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import torch

from loss_conformance.cases.case import Case
from loss_conformance.cases.describe import sizes
from loss_conformance.cases.perturb import perturbed
from loss_conformance.cases.transform import repeat_rows, repeat_tokens
from loss_conformance.checks.conditions import unless
from loss_conformance.checks.finite import first_nonfinite
from loss_conformance.checks.half_precision import OPERATIONS, short_name
from loss_conformance.checks.registry import Cost, check
from loss_conformance.evaluation import Evaluation, LossRaised
from loss_conformance.report.numbers import number
from loss_conformance.rounded_products import OperationsSeen
from loss_conformance.tolerance import OPERATIONS_PER_TERM, value_tolerance
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["many_half_terms", "many_repeats", "many_terms"]

OF_TOKENS: Final = ((8, 33), (32, 129), (256, 257))
OF_ROWS: Final = ((256, 3), (4096, 3), (65536, 3))
OF_COMPARED_ROWS: Final = ((32, 3), (96, 3), (288, 3))
"""Rows and tokens of ever larger batches; where rows are compared with each other, terms are their square."""
MOST: Final = 2**17
"""Numbers in the largest input of a batch of repeated rows."""
LONG: Final = 512
"""Tokens of a sequence of repeated tokens, at least: more than eight bits can count."""

FEWEST: Final = 2**12
SECONDS: Final = 1.0
"""What one evaluation of the largest batch may take; a slower loss is tried on a smaller one."""
PERTURBATIONS: Final = 2
POORLY_SUMMED: Final = {"nll_loss_forward", "nll_loss2d_forward"}


@check(
    group="stability",
    statement="Over tens of thousands of terms, float32 gives the L of float64 to √n roundings, and a finite gradient.",
    over=("full",),
    cost=Cost.STANDARD,
    most_cases=1,
    why="On six tokens every product and every power is a number; over a sequence of training they overflow or vanish.",
    cause="a product of many factors, a power of the position that is divided by, or a difference of two large sums.",
    fix="Sum logarithms; run a recursion backwards instead of dividing by gamma ** t.",
    seen_in="pytorch/pytorch#55657",
    applies=unless("stochastic"),
    requires=("scalar_output", "finite_value", "float32_accuracy"),
)
def many_terms(trial: Trial) -> None:
    if trial.bench.dtype is not torch.float64:
        raise NotExercised("the loss takes no float64 inputs")
    case, exact = _largest(trial)
    eps = torch.finfo(torch.float32).eps
    ulps = OPERATIONS_PER_TERM + _terms(trial, case) ** 0.5
    _require(trial, case, case.cast(torch.float32), exact, eps, ulps, "float32", guessed=trial.foreign)


@check(
    group="stability",
    statement="Repeating rows ten thousand times, or tokens a hundred times, leaves a mean as it is (and multiplies a sum).",
    over=("full",),
    cost=Cost.STANDARD,
    most_cases=1,
    why="A count in 8 or 16 bits is exact on every small batch, and wraps round or becomes infinite on one of training.",
    cause="a count or a running sum kept in half precision or in 8 bits.",
    fix="Count in int64 and sum in float32.",
    seen_in="pytorch/pytorch#55657",
    applies=lambda trial: unless("coupled", "stochastic")(trial) or _indexed(trial),
    requires=("scalar_output", "finite_value", "float32_accuracy", "duplicate_rows"),
)
def many_repeats(trial: Trial) -> None:
    if trial.bench.coupling.across:
        raise NotExercised("its rows look at each other")
    rows = MOST // trial.case.terms
    tried = _repeats(trial, f"every row {rows} times", repeat_rows(trial.case, 2), repeat_rows(trial.case, rows), rows)
    if any(slot.token_axis is not None for slot in trial.case.slots()):
        long, times = trial.case, 1
        while long.trained.shape[1] < LONG:
            long, times = repeat_tokens(long), 2 * times
        # Of a loss that may tell long sequences from short ones nobody knows from how long on.
        guessed = not trial.facts.promised("length_normalized")
        doubled = repeat_tokens(trial.case)
        tried = _repeats(trial, f"every token {times} times", doubled, long, times, guessed) or tried
    if not tried:
        raise NotExercised("already two copies of everything make another loss")


def _repeats(trial: Trial, changed: str, doubled: Case, many: Case, times: int, guessed: bool = False) -> bool:
    """Demand that many copies do what two of them do; return whether two say what that is."""
    base = trial.finite_base
    twice = float(trial.evaluate(doubled).value)
    near = 2 * value_tolerance(base, trial.case, trial.eps).bound
    once = float(base.value)
    factor = 1 if abs(twice - once) <= near else times if abs(twice - 2 * once) <= near else None
    if factor is None:
        return False
    got = trial.evaluate(many, dtype=torch.float32)
    magnitude = (1.0 + abs(once) + base.sensitivity) * factor
    eps = torch.finfo(torch.float32).eps
    ulps = OPERATIONS_PER_TERM + many.terms**0.5
    bound = ulps * eps * magnitude
    if not abs(float(got.value) - once * factor) <= bound:
        tolerance = f"{bound:.1e} ({ulps:.0f} ulp float32 of {magnitude:.3g})"
        guessed = guessed or trial.foreign
        said = f"{changed}, in float32"
        raise Broken(got.value, number(once * factor), changed=said, tolerance=tolerance, guessed=guessed)
    return True


def _indexed(trial: Trial) -> str | None:
    slots = trial.case.slots()
    if any(slot.role == "pairs" for slot in slots) or not any(slot.row_axis is not None for slot in slots):
        return "it has no rows that could be repeated"
    return None


@check(
    group="stability",
    statement="Over tens of thousands of terms, outputs of the model in half precision give a finite L that agrees to it.",
    over=("full",),
    cost=Cost.STANDARD,
    most_cases=1,
    why="Terms of 4 add up to more than float16 can hold after sixteen thousand of them: inf / n, on large batches alone.",
    cause="a sum taken in the precision of the terms and divided afterwards, or a running sum in half precision.",
    fix="Sum in float32, terms.float().sum() / n, or take the mean.",
    seen_in="KevinMusgrave/pytorch-metric-learning@b03af31",
    applies=unless("stochastic"),
    requires=("scalar_output", "finite_value", "bfloat16_inputs", "float16_inputs"),
)
def many_half_terms(trial: Trial) -> None:
    case, _ = _largest(trial)
    for dtype in (torch.bfloat16, torch.float16):
        fed = _computed_in(case, dtype)
        wide = fed.cast(trial.bench.dtype)
        exact = trial.evaluate(wide)
        if not bool(torch.isfinite(exact.value)) or first_nonfinite(exact):
            raise NotExercised("the loss is not finite on such a batch in full precision either")
        guessed = trial.foreign or not trial.facts.any_promised
        _require(trial, wide, fed, exact, torch.finfo(dtype).eps, OPERATIONS, short_name(dtype), guessed)


def _require(
    trial: Trial, wide: Case, fed: Case, exact: Evaluation, eps: float, ulps: float, precision: str, guessed: bool
) -> None:
    """Demand |got - exact| ≤ ulps (eps (1 + |L| + sum |x dL/dx|) + how far rounding the inputs moves the exact value)."""
    try:
        got = trial.evaluate(fed)
    except LossRaised as raised:
        raise NotExercised(f"the loss raises on such a batch ({raised})") from None
    changed = f"a batch of {sizes(wide)}, in {precision}"
    lost = f"loss = {number(got.value)}" if not bool(torch.isfinite(got.value)) else first_nonfinite(got)
    if lost and _torch_overflows(trial, fed):
        raise NotExercised("torch itself adds up the cross-entropies of float16 in float16, on a CPU")
    if lost:
        raise Broken(lost, f"finite: in full precision {number(exact.value)}", changed=changed, guessed=guessed)
    magnitude = 1.0 + float(exact.value.abs()) + exact.sensitivity
    difference = float((got.value.to(torch.float64) - exact.value.to(torch.float64)).abs())
    if difference <= ulps * eps * magnitude:
        return
    others = [trial.evaluate(perturbed(wide, seed, eps)) for seed in range(PERTURBATIONS)]
    moved = max(float(torch.nan_to_num(other.value - exact.value).abs()) for other in others)
    bound = ulps * (eps * magnitude + moved)
    if difference > bound:
        said = f"{bound:.1e} ({ulps:.0f} × ({precision} ulp of {magnitude:.3g} + {moved:.1e} from rounded inputs))"
        wanted = f"{number(exact.value)} in full precision"
        raise Broken(got.value, wanted, changed=changed, tolerance=said, guessed=guessed)


def _torch_overflows(trial: Trial, fed: Case) -> bool:
    """Return whether the loss rests on an operation that torch carries out in float16 on a CPU and nowhere else."""
    seen = OperationsSeen()
    trial.evaluate(fed, within=lambda: seen)
    return bool(seen.names & POORLY_SUMMED) and any(t.dtype is torch.float16 for t in fed.tensors.values())


def _largest(trial: Trial) -> tuple[Case, Evaluation]:
    """Return the largest batch of the ladder that the loss answers in time, and its value in the working precision."""
    if trial.case.plan is not trial.bench.pool["full"][0]:
        # Not on the smaller plans either that are tried once this one breaks the law.
        raise NotExercised("one batch of this size is enough")
    found, took = None, 0.0
    # Of rows that are compared, all triples may be; of others, the time of a small batch is mostly not the batch's.
    power = 3.0 if _compares_rows(trial) else 1.5
    for case in _ladder(trial):
        if found is not None and took * (case.terms / found[0].terms) ** power > SECONDS:
            break
        started = time.perf_counter()
        try:
            exact = trial.evaluate(case)
        except LossRaised:
            break
        took = time.perf_counter() - started
        if not bool(torch.isfinite(exact.value)) or first_nonfinite(exact):
            break
        found = case, exact
    if found is None or _terms(trial, found[0]) < FEWEST:
        raise NotExercised("the loss does not answer a batch of this size, in time or with a finite number")
    return found


def _compares_rows(trial: Trial) -> bool:
    return trial.bench.coupling.across or any(slot.role == "pairs" for slot in trial.case.slots())


def _terms(trial: Trial, case: Case) -> int:
    return max(case.terms, len(case.rows) ** 2 if _compares_rows(trial) else 0)


def _ladder(trial: Trial) -> Iterator[Case]:
    plan, route = trial.case.plan, trial.bench.route_of(trial.case)
    assert plan is not None
    schema = trial.case.schema
    tokens = any(slot.token_axis is not None for slot in schema.slots)
    steps = OF_TOKENS if tokens else OF_COMPARED_ROWS if _compares_rows(trial) else OF_ROWS
    for rows, width in steps:
        yield trial.bench.case(replace(plan, rows=rows // schema.group, tokens=width, terms=rows), route)


def _computed_in(case: Case, dtype: torch.dtype) -> Case:
    """Return the case with what a model computed in half precision; masks and counts are nobody's output."""
    computed = {
        slot.key: case.tensor(slot).to(dtype)
        for slot in case.slots()
        if slot.role not in ("mask", "count", "weights") and case.tensor(slot).is_floating_point()
    }
    return case.cast(torch.float32).with_tensors(computed)
