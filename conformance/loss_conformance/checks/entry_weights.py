"""Weights of entries: a weight multiplies the whole term of its entry, once."""

from __future__ import annotations

import torch
from torch import Tensor

from loss_conformance.cases.slot import Slot
from loss_conformance.checks.conditions import unless
from loss_conformance.checks.registry import Severity, check
from loss_conformance.report.numbers import number
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["no_weight_no_gradient", "weighed_once"]

SMALLEST = 2.0**-20
"""Share of the largest gradient below which a ratio of two says nothing."""
CLOSE = 2.0**-10


@check(
    group="reduction",
    statement="An entry of weight 0 gets no gradient.",
    over=("typical", "full"),
    severity=Severity.ADVICE,
    why="A weight on one of two terms takes an entry half out: what is left pulls it where no data is.",
    cause="score + weight * error for weight * (score + error).",
    fix="Form the whole term of an entry, then multiply it with the weight, once.",
    seen_in="lightgbm-org/LightGBM#4174",
    applies=lambda trial: (
        unless("coupled", "stochastic", "stateful")(trial)
        or (None if _weights_of(trial) else "it takes no weights of the entries of its one prediction")
    ),
    requires=("scalar_output",),
)
def no_weight_no_gradient(trial: Trial) -> None:
    if trial.bench.coupling.across:
        raise NotExercised("an entry of weight 0 still stands beside the others, which are compared with it")
    found = _weights_of(trial)
    assert found is not None
    trained, weights = found
    tensor = trial.case.tensor(weights).clone(memory_format=torch.contiguous_format)
    tensor.view(-1)[-1] = 0.0
    got = trial.evaluate(trial.case.with_tensors({weights.key: tensor}))
    gradient = got.gradients.get(trained.key)
    if gradient is None or not bool((trial.finite_base.gradients[trained.key][-1] != 0).any()):
        raise NotExercised("its last entry is not trained")
    last = gradient.reshape(tensor.numel(), -1)[-1]
    if bool((last.abs() > trial.gradient_tolerance(trained.key, gradient).bound).any()):
        raise Broken(
            f"gradient of {trained.key} = {number(last[last.abs().argmax()])} at the last entry",
            "0",
            changed=f"the last entry of {weights.key} is 0",
        )


@check(
    group="reduction",
    statement="With its weight doubled, an entry pulls twice as hard as it did beside the others, not four times.",
    over=("typical", "full"),
    severity=Severity.ADVICE,
    why="Weights of 1 and 0 do not show it; any other counts squared.",
    cause="the weight handed to the inner loss and multiplied in once more where the terms are reduced.",
    fix="Take the inner loss without weights, reduction='none', and weigh its terms in one place.",
    seen_in="open-mmlab/mmdetection#845",
    applies=lambda trial: (
        unless("coupled", "stochastic", "stateful")(trial)
        or (None if _weights_of(trial) else "it takes no weights of the entries of its one prediction")
    ),
    requires=("scalar_output",),
)
def weighed_once(trial: Trial) -> None:
    if trial.bench.coupling.across:
        raise NotExercised("its entries are compared with each other")
    found = _weights_of(trial)
    assert found is not None
    trained, weights = found
    tensor = trial.case.tensor(weights).clone(memory_format=torch.contiguous_format)
    tensor.view(-1)[0] *= 2
    before = _pulls(trial.finite_base.gradients[trained.key], tensor.numel())
    after = _pulls(
        trial.evaluate(trial.case.with_tensors({weights.key: tensor})).gradients[trained.key], tensor.numel()
    )
    pulled = before > SMALLEST * before.amax()
    if not bool(pulled[0]) or int(pulled.sum()) < 2:
        raise NotExercised("fewer than two of its entries are trained")
    ratios = (after / before)[pulled]
    others = ratios[1:].median()  # a divisor that follows the weights changes for all of them alike
    if abs(float(ratios[0] / others) - 4.0) <= CLOSE:
        raise Broken(
            f"{number(ratios[0] / others)} times the pull, beside the other entries",
            "2 times",
            changed=f"the first entry of {weights.key} doubled",
        )


def _pulls(gradient: Tensor, entries: int) -> Tensor:
    """Return the largest gradient of each weighted entry."""
    return gradient.reshape(entries, -1).abs().amax(dim=1)


def _weights_of(trial: Trial) -> tuple[Slot, Slot] | None:
    """Return the one prediction, and the weights that stand beside each of its entries or rows."""
    trained = [slot for slot in trial.case.slots() if slot.trainable]
    weights = [slot for slot in trial.case.slots() if slot.role == "weights" and not slot.trainable]
    if len(trained) != 1 or len(weights) != 1 or not weights[0].shape:
        return None
    beside = trained[0].shape[: len(weights[0].shape)] == weights[0].shape and weights[0].shape[0] == "B"
    return (trained[0], weights[0]) if beside else None
