"""Ranks: a loss that talks to other ranks is, all together, the loss of the whole batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.cases.shares import axis_of_share, joined, of_one_batch
from loss_conformance.checks.conditions import unless
from loss_conformance.checks.registry import Cost, check
from loss_conformance.evaluation import Evaluation, LossRaised
from loss_conformance.ranks.asked import COLLECTIVES, distributed_calls
from loss_conformance.ranks.loss_of_rank import asks_at_construction, loss_of_rank
from loss_conformance.ranks.processes import RankRaised, evaluate_in_processes
from loss_conformance.ranks.threads import WORLD, RankWaits, Unsimulated, on_every_rank
from loss_conformance.report.numbers import number
from loss_conformance.tolerance import value_tolerance
from loss_conformance.trial import Broken, NotExercised, Trial, Unanswered

__all__ = ["ranks", "ranks_in_processes"]

ALLOWED_VALUES: Final = (1, WORLD, WORLD**2)
"""Sum of the values over the ranks, in values of the whole: they add up, they are means, or means times the world size."""
ALLOWED_GRADIENTS: Final = (1, WORLD)
"""Gradient of the rows of a rank, in that of the whole: gradients are added up over ranks, or averaged as DDP does."""
ANOTHER_SEED: Final = 10
"""Added to the seed of a plan; a multiple of everything sizes are made of, so that the shares are equally large."""


@check(
    group="reduction",
    statement="On two ranks with equal shares, L and its gradient add up, or average, to those of the whole batch on one.",
    over=("full", "typical", "holes"),
    why="Gathered negatives and reduced counts are right in value and wrong in gradient; on one process nothing of it shows.",
    cause="a gather without gradient, a count reduced twice or by one rank alone, labels without the offset of the rank.",
    fix="Gather with torch.distributed.nn.functional.all_gather, reduce each count once, offset labels by rank * rows.",
    seen_in="lightly-ai/lightly@d8a260d5",
    applies=unless("stochastic"),
)
def ranks(trial: Trial) -> None:
    _require_on_ranks(trial, _in_threads)


@check(
    group="reduction",
    statement="On two processes with a gloo group and equal shares, L adds up, or averages, to that of the whole batch on one.",
    over=("full",),
    cost=Cost.THOROUGH,
    most_cases=1,
    why="Threads share what processes do not, a module's globals among it, and no thread sees a collective time out.",
    cause="what the check named ranks says; where that one holds, something kept for all ranks at once.",
    fix="Keep what depends on the rank in the loss; let every rank join every collective.",
    seen_in="lightly-ai/lightly@d8a260d5",
    applies=unless("stochastic"),
)
def ranks_in_processes(trial: Trial) -> None:
    _require_on_ranks(trial, _in_processes)


def _require_on_ranks(trial: Trial, together: Callable[[Trial, list[Case]], list[Evaluation]]) -> None:
    if not _asks(trial):
        raise NotExercised("it asks nothing of torch.distributed")
    reasons = []
    dealt = _dealt_out(trial)
    for shares in dealt:
        try:
            _require_whole(trial, shares, together(trial, shares))
        except NotExercised as reason:
            reasons.append(reason)
    if len(reasons) == len(dealt):
        raise reasons[0]


def _require_whole(trial: Trial, shares: list[Case], got: list[Evaluation]) -> None:
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


def _asks(trial: Trial) -> bool:
    if asks_at_construction(trial.bench.subject):
        return True
    with distributed_calls() as names:
        trial.evaluate(trial.case)
    return bool(names)


def _dealt_out(trial: Trial) -> list[list[Case]]:
    """Return the shares of every rank, with the counts of the whole batch given and, where they may be, left out."""
    plan, route = trial.case.plan, trial.bench.route_of(trial.case)
    if plan is None or not any(slot.row_axis is not None for slot in trial.case.slots()):
        raise NotExercised("it has no rows to share out")
    counted = any(slot.role == "count" and slot.optional for slot in trial.case.schema.slots)
    dealt = []
    for counts in (False, True) if counted else (plan.counts,):
        plans = (replace(plan, seed=plan.seed + ANOTHER_SEED * rank, counts=counts) for rank in range(WORLD))
        shares = of_one_batch([trial.bench.case(of_rank, route) for of_rank in plans])
        if shares is None:
            raise NotExercised("its inputs are no shares of one batch")
        dealt.append(shares)
    return dealt


def _in_threads(trial: Trial, shares: list[Case]) -> list[Evaluation]:
    """Return what each rank gives on its share while the others work on theirs."""

    def of_rank(rank: int) -> tuple[Evaluation, set[str]]:
        with distributed_calls() as names:
            loss = loss_of_rank(trial.bench.subject, rank)
            return trial.evaluate(shares[rank], loss=loss), names

    try:
        results = on_every_rank(of_rank)
    except Unsimulated as reason:
        raise NotExercised(str(reason)) from None
    except RankWaits as waiting:
        raise _hanging(trial, waiting) from None
    except LossRaised as raised:
        if _beyond_simulation(raised):
            raise NotExercised(f"the simulated group cannot do what it asks: {raised}") from None
        said = f"on one of {WORLD} ranks {raised.where} raised {raised}"
        raise Broken(said, "a loss", traceback=raised.traceback, guessed=trial.foreign) from None
    if not any(names & {*COLLECTIVES, "get_rank", "get_world_size"} for _, names in results):
        raise NotExercised("it asks nothing of the other ranks")
    return [evaluation for evaluation, _ in results]


def _in_processes(trial: Trial, shares: list[Case]) -> list[Evaluation]:
    """Return the same of ranks that are processes."""
    caller = trial.bench.caller
    try:
        losses = [loss_of_rank(trial.bench.subject, rank) for rank in range(WORLD)]
        return evaluate_in_processes(caller, losses, shares)
    except Unsimulated as reason:
        raise NotExercised(str(reason)) from None
    except RankWaits as waiting:
        raise _hanging(trial, waiting) from None
    except RankRaised as raised:
        raise Broken(f"on one of {WORLD} ranks it raised {raised}", "a loss", guessed=trial.foreign) from None


def _hanging(trial: Trial, waiting: RankWaits) -> Broken:
    # Looking for a smaller batch would wait as long each time.
    broken = Unanswered(str(waiting))
    broken.cause, broken.guessed = "a collective in a branch that not every rank takes.", trial.foreign
    return broken


def _beyond_simulation(raised: LossRaised) -> bool:
    said = str(raised)
    return isinstance(raised.error, NotImplementedError | AttributeError) or "backend" in said.lower()


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
