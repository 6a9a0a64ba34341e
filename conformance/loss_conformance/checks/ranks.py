"""Ranks: a loss that talks to other ranks is, all together, the loss of the whole batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from loss_conformance.cases.case import Case
from loss_conformance.cases.shares import of_one_batch
from loss_conformance.checks.conditions import unless
from loss_conformance.checks.registry import Cost, check
from loss_conformance.checks.whole_of_ranks import require_whole
from loss_conformance.evaluation import Evaluation, LossRaised
from loss_conformance.ranks.asked import COLLECTIVES, distributed_calls
from loss_conformance.ranks.loss_of_rank import asks_at_construction, loss_of_rank
from loss_conformance.ranks.processes import RankRaised, evaluate_in_processes
from loss_conformance.ranks.threads import WORLD, RankWaits, Unsimulated, on_every_rank
from loss_conformance.trial import Broken, NotExercised, Trial, Unanswered

__all__ = ["ranks", "ranks_in_processes"]

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
    requires=("scalar_output", "repeatable"),
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
    requires=("scalar_output", "repeatable"),
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
            require_whole(trial, shares, together(trial, shares))
        except NotExercised as reason:
            reasons.append(reason)
    if len(reasons) == len(dealt):
        raise reasons[0]


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
    said = str(raised).lower()
    missing = any(word in said for word in ("backend", "cuda", "gpu", "nccl"))
    return missing or isinstance(raised.error, NotImplementedError | AttributeError)
