"""Cost: how much a loss keeps for its backward pass, and that nothing of it outlives the call."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from loss_conformance.cases.plan import Plan
from loss_conformance.checks.registry import Severity, check
from loss_conformance.evaluation import LossRaised, Malformed
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["graph_released", "linear_memory"]

SIZES: Final = (32, 64, 128, 256)


@check(
    group="cost",
    statement="When the result of a call is dropped, nothing keeps its graph alive.",
    why="A graph kept alive keeps every activation of its batch alive: memory grows with each step until the run dies.",
    cause="the loss, or a term of it, stored on the object or appended to a list without .detach().",
    fix="Store loss.detach(), or float(loss) where waiting for the device is no matter.",
    seen_in="huggingface/trl@768c3892c",
    requires=("scalar_output", "finite_value"),
    own_batch=True,
    most_cases=1,
)
def graph_released(trial: Trial) -> None:
    trial.finite_base  # noqa: B018 - nothing is said about a loss that raises
    try:
        *earlier, last = trial.bench.caller.graphs_kept(trial.case)
    except LossRaised as raised:
        # The same case ran unwatched: torch.func inside a loss, for one, refuses to be watched.
        raise NotExercised(f"its graph cannot be watched: {raised}") from None
    if any(earlier):
        raise Broken(f"{sum(earlier) + last} graphs alive after {len(earlier) + 1} calls", "none")
    if last:
        raise Broken("the graph of the last call is kept alive until the next one", "none", guessed=True)


@check(
    group="cost",
    statement="The bytes kept for the backward pass grow in proportion to the tokens, and to the rows unless they are coupled.",
    severity=Severity.ADVICE,
    why="What grows with the square of the length fits on a laptop and not on the cluster; often it is a broadcast by accident.",
    cause="[B, S, S] or [B, B] where [B, S] or [B] was meant: a missing keepdim or squeeze.",
    fix="Look at the shapes of the intermediate results; or declare Contract(coupled=True) where rows are compared.",
    requires=("scalar_output", "finite_value"),
    most_cases=1,
)
def linear_memory(trial: Trial) -> None:
    letters = trial.case.schema.letters
    tried = [("tokens", "S")] if {"S", "S-1"} & letters else []
    if not (trial.facts.contract.coupled or trial.bench.coupling.across or {"N", "D"} & letters):
        tried.append(("rows", "B"))
    if trial.case.plan is None or not tried:
        raise NotExercised("it has no tokens, and compares rows")
    for size, letter in tried:
        kept: list[int] = []
        for n in SIZES:
            kept.append(_kept(trial, _sized(trial.case.plan, size, n)))
            if len(kept) > 2 and not _grows_as_a_square(kept):
                break
        else:
            said = ", ".join(f"{b} bytes at {letter} = {n}" for b, n in zip(kept, SIZES, strict=True))
            raise Broken(said, f"growth in proportion to {letter}")


def _grows_as_a_square(kept: list[int]) -> bool:
    """Return whether the last increment is nearer to four times the one before, as of a square, than to twice."""
    small, middle, large = kept[-3:]
    return large - middle > 3 * (middle - small) > 0


def _sized(plan: Plan, size: str, n: int) -> Plan:
    return replace(plan, mask="full", tokens=n) if size == "tokens" else replace(plan, mask="full", rows=n)


def _kept(trial: Trial, plan: Plan) -> int:
    case = trial.bench.case(plan, trial.bench.route_of(trial.case), trial.bench.dtype)
    try:
        return trial.bench.caller.bytes_saved(case)
    except (LossRaised, Malformed) as raised:
        raise NotExercised(f"it takes no larger batch: {raised}") from None
