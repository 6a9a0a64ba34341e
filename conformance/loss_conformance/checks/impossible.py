"""Impossible tokens: a class that neither side believes in changes nothing, however many of them the vocabulary has."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.cases.slot import Slot
from loss_conformance.checks.conditions import unless
from loss_conformance.checks.registry import check
from loss_conformance.evaluation import LossRaised, Malformed
from loss_conformance.report.numbers import number
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["impossible_tokens"]

DEPTH: Final = 1e4
"""How far below the lowest logit the new ones lie: probability exactly 0, also at a temperature of 10."""

SCORES: Final = ("logits", "logprobs", "probabilities")


@check(
    group="reduction",
    statement="Appending a token of probability 0 to the scores of every position (student and teacher) leaves L unchanged.",
    over=("typical", "full"),
    why="A mean over the vocabulary divides the loss by its size: a step thousands of times too small, or hidden beside "
    "another term.",
    cause="reduction='mean' of an element-wise divergence, or a mask expanded over the vocabulary and summed.",
    fix="Sum over the vocabulary first, kl.sum(-1) or reduction='batchmean'; then take the mean over tokens.",
    seen_in="haitongli/knowledge-distillation-pytorch#2",
    applies=unless("coupled", "stochastic"),
    own_batch=True,
)
def impossible_tokens(trial: Trial) -> None:
    trial.compare_in_float32()
    base = trial.finite_base
    student = _require_scores(trial)
    if trial.foreign and trial.bench.coupling.across:
        raise NotExercised("it compares rows, as a mean over classes of the whole batch does")
    try:
        once, thrice = (trial.evaluate(_appended(trial.case, count, DEPTH)) for count in (1, 3))
        nearer = trial.evaluate(_appended(trial.case, 1, DEPTH / 2))
    except (LossRaised, Malformed) as raised:
        raise NotExercised(f"it takes no other number of classes: {raised}") from None
    if not bool(torch.isfinite(once.value) & torch.isfinite(thrice.value)):
        raise NotExercised("it is not finite where a class is impossible, which the finite checks say")
    size = trial.case.tensor(student).shape[-1]
    tolerance = trial.value_tolerance(base)
    if abs(float(once.value - base.value)) <= 4 * tolerance.bound:
        return
    new = once.gradients[student.key][..., size:].abs()
    sees = bool((new > trial.gradient_tolerance(student.key, base.gradients[student.key]).bound).any())
    if sees or abs(float(once.value - nearer.value)) > 4 * tolerance.bound:
        raise NotExercised("it weighs impossible classes on purpose, as label smoothing does")
    if not _divided_by_size(float(base.value), float(once.value), float(thrice.value), size, 16 * tolerance.bound):
        raise NotExercised("it depends on the number of classes in another way than a mean over them")
    declared = trial.facts.origin.get("family") == "declared" and trial.facts.contract.family == "distillation"
    raise Broken(
        f"L = {number(once.value)} with one more class, {number(thrice.value)} with three",
        number(base.value),
        changed=f"classes of probability 0 appended to the {size} there are",
        tolerance=tolerance,
        guessed=not declared,
        declare=""
        if declared
        else "Contract(family='distillation') makes it a law; exempt it where a mean over classes is "
        "the documented convention",
    )


def _require_scores(trial: Trial) -> Slot:
    """Return the trained scores over the vocabulary, where all that has that axis are scores one can append to."""
    case = trial.case
    over_classes = [slot for slot in case.slots() if "V" in slot.shape]
    trained = [slot for slot in over_classes if slot.trainable]
    if len(trained) != 1 or trained[0].role not in ("logits", "logprobs"):
        raise NotExercised("it is trained through no scores over a vocabulary")
    if any(
        slot.role not in SCORES or slot.limited or slot.shape.index("V") != len(slot.shape) - 1 for slot in over_classes
    ):
        raise NotExercised("something else has the size of the vocabulary too")
    gradient = trial.finite_base.gradients[trained[0].key]
    reached = (gradient != 0).any(-1)
    if not bool(reached.any()) or (trained[0].role == "logits" and not bool((gradient != 0).all(-1)[reached].all())):
        raise NotExercised("it does not take the softmax of these scores")
    return trained[0]


def _appended(case: Case, count: int, depth: float) -> Case:
    grown: dict[str, Tensor] = {}
    for slot in case.slots():
        if "V" in slot.shape:
            scores = case.tensor(slot)
            lowest = scores.masked_fill(torch.isinf(scores), 0.0).amin(-1, keepdim=True)
            new = torch.zeros_like(lowest) if slot.role == "probabilities" else lowest - depth
            grown[slot.key] = torch.cat((scores, new.expand(*new.shape[:-1], count)), dim=-1)
    return case.with_tensors(grown)


def _divided_by_size(base: float, once: float, thrice: float, size: int, bound: float) -> bool:
    """Return whether L = a + b / V, as a mean over the vocabulary gives beside whatever else is added."""
    b = (base - once) / (1 / size - 1 / (size + 1))
    wanted = base - b / size + b / (size + 3)
    return abs(thrice - wanted) <= bound and abs(base - once) > 4 * bound
