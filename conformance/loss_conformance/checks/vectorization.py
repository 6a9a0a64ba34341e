"""Vectorization: a loss mapped over several outputs of a model gives the loss of each."""

from __future__ import annotations

from loss_conformance.cases.case import Case
from loss_conformance.checks.conditions import unless
from loss_conformance.checks.registry import Cost, Severity, check
from loss_conformance.evaluation import Evaluation, LossRaised, Malformed
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["vmap"]


@check(
    group="compile",
    statement="torch.vmap of L over two outputs of the model gives L of the first and L of the second.",
    over=("typical",),
    severity=Severity.ADVICE,
    cost=Cost.STANDARD,
    why="Gradients per sample and ensembles are made by mapping; what cannot be mapped is called in a loop instead.",
    cause="if tensor, .item(), a write into a tensor of another shape, or an autograd.Function with a vmap rule of its own.",
    fix="torch.where instead of if, out-of-place operations, generate_vmap_rule=True in an autograd.Function.",
    seen_in="pytorch/functorch#257",
    applies=unless("stochastic", "stateful"),
    requires=("scalar_output", "finite_value", "repeatable"),
    own_batch=True,
    most_cases=1,
)
def vmap(trial: Trial) -> None:
    other = _halved(trial.case)
    wanted = (trial.finite_base, trial.evaluate(other))
    try:
        values = trial.bench.caller.mapped((trial.case, other))
    except (LossRaised, Malformed) as raised:
        said = str(raised).strip().splitlines()[0][:200]
        raise Broken(f"it raised {said}", "two losses") from None
    for which, (value, target) in enumerate(zip(values, wanted, strict=True)):
        trial.require_value(Evaluation(value), target, f"mapped over two outputs, the {('first', 'second')[which]}")


def _halved(case: Case) -> Case:
    """Return the case with every trained number halved: another output of the model, as legal as the first."""
    trained = [slot for slot in case.slots() if slot.trainable and slot.movable and slot.role != "probabilities"]
    if not trained:
        raise NotExercised("it takes no output of a model that could be another")
    return case.with_tensors({slot.key: case.tensor(slot) / 2 for slot in trained})
