"""Compilation: what torch.compile makes of a loss gives the same numbers, in one piece."""

from __future__ import annotations

from shutil import which

from loss_conformance.checks.conditions import unless
from loss_conformance.checks.registry import Cost, Severity, check
from loss_conformance.compiling import compiled, graph_breaks
from loss_conformance.copying import copy_of
from loss_conformance.evaluation import LossRaised, Malformed
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["compiled_agreement", "one_graph"]


@check(
    group="compile",
    statement="Compiled, L and its gradient are those of the loss run eagerly.",
    over=("typical",),
    cost=Cost.STANDARD,
    why="Compiled training then optimises another loss than the one that was tested.",
    cause="a branch taken only while compiling, a Python number frozen into the graph, a buffer the compiler does not see.",
    fix="Keep numbers that change in tensors, and let one code path serve both.",
    seen_in="pytorch/pytorch#119607",
    applies=unless("stochastic"),
    requires=("scalar_output", "finite_value", "repeatable"),
    own_batch=True,
    most_cases=1,
)
def compiled_agreement(trial: Trial) -> None:
    backend = "inductor" if trial.bench.profile == "thorough" and which("c++") else "aot_eager"
    wanted = trial.finite_base
    with compiled(copy_of(trial.loss), backend) as loss:
        try:
            got = trial.evaluate(trial.case, loss=loss)
        except (LossRaised, Malformed) as raised:
            # Which constructs a compiler takes changes from release to release: told, not failed.
            raise Broken(f"it raised {_first_line(raised)}", "the eager result", guessed=True) from None
    trial.require_same(got, wanted, f"compiled with {backend}")


@check(
    group="compile",
    statement="The loss compiles into one graph.",
    severity=Severity.ADVICE,
    cost=Cost.STANDARD,
    why="Every graph break returns to the interpreter, and a value read in Python makes an accelerator wait.",
    cause=".item(), float(tensor), if tensor.any(), print, or a loop over the content of a tensor.",
    fix="Keep values in tensors: torch.where instead of if, clamp instead of an early return.",
    seen_in="volcengine/verl#1030",
    applies=unless("stochastic"),
    requires=("scalar_output", "compiled_agreement"),
    own_batch=True,
    most_cases=1,
)
def one_graph(trial: Trial) -> None:
    trial.finite_base  # noqa: B018 - nothing is said about a loss that raises
    with compiled(copy_of(trial.loss), "eager") as loss:
        try:
            trial.evaluate(trial.case, loss=loss)
        except (LossRaised, Malformed) as raised:
            raise NotExercised(f"the compiler cannot run it: {_first_line(raised)}") from None
        breaks = graph_breaks()
    if breaks:
        raise Broken(f"{len(breaks)} graph break(s): {breaks[0]}", "one graph")


def _first_line(raised: Exception) -> str:
    return str(raised).strip().splitlines()[0][:200]
