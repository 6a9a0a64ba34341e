"""Token ids are names: which number a word of the vocabulary has means nothing, not even 0."""

from __future__ import annotations

import re
from typing import Final

import torch
from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.cases.slot import Slot
from loss_conformance.checks.conditions import unless
from loss_conformance.checks.registry import check
from loss_conformance.evaluation import Evaluation
from loss_conformance.report.numbers import number
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["ids_are_names", "token_ids_are_names"]

IDS: Final = ("token_ids", "labels")
CLASSES: Final = ("labels",)
"""Kinds of ids that need not be words of a vocabulary."""
ALIGNS: Final = re.compile(r"ctc|transducer|rnn_?t", re.IGNORECASE)
"""Losses whose id 0 stands for no token at all, by custom."""


@check(
    group="symmetry",
    statement="Exchanging token 0 with another, in the scores and in the ids alike, leaves L unchanged, as it does with "
    "any two others.",
    over=("typical", "full"),
    why="Whatever word has the id 0 is never trained, or counts for something else, and no curve shows one word of many.",
    cause="a mask of ids > 0, or ids used as a condition: `if id`, torch.where(ids, ...), nonzero().",
    fix="Read the mask, or compare with the id that is ignored: labels != -100.",
    applies=lambda trial: unless("stochastic", "stateful")(trial) or _unless_zero_is_meant(trial),
    most_cases=2,
)
def token_ids_are_names(trial: Trial) -> None:
    base, case = trial.finite_base, trial.case
    scores = [slot for slot in case.slots() if slot.shape.count("V") == 1]
    ids = [slot for slot in case.slots() if slot.integer and slot.role in IDS and slot.token_axis is not None]
    if not ids or not any(slot.trainable for slot in scores):
        raise NotExercised("it is trained through no scores over a vocabulary beside token ids")
    size = case.tensor(scores[0]).shape[scores[0].shape.index("V")]
    if size < 3:
        raise NotExercised("the vocabulary has no two tokens beside 0")
    others = _others(size)
    for slot in tuple(ids):
        # Numbers of documents and the like say nothing about the vocabulary, and 0 among them may well be no document.
        without = [each for each in ids if each is not slot]
        if _unseen(trial, scores, without, others):
            ids = without
    if not ids or not _unseen(trial, scores, ids, others):
        raise NotExercised("its ids are more than names, as ordered or weighted classes are, or do not name its scores")
    often = max(range(1, size), key=lambda token: sum(int((case.tensor(slot) == token).sum()) for slot in ids))
    exchanged = torch.arange(size)
    exchanged[0], exchanged[often] = often, 0
    got = trial.evaluate(_renamed(case, scores, ids, exchanged))
    if _alike(trial, base, got):
        return
    raise Broken(
        number(got.value),
        number(base.value),
        changed=f"tokens 0 and {often} exchanged in {', '.join(slot.key for slot in (*scores, *ids))}",
        tolerance=trial.value_tolerance(base),
        cause="id 0 alone is singled out, though no setting says so: other ids may be exchanged at will.",
        # Among classes, unlike words, the first is by custom the background, or no entity at all.
        guessed=(trial.foreign and not trial.facts.any_promised) or all(slot.kind in CLASSES for slot in ids),
    )


def ids_are_names(trial: Trial, ids: Slot) -> bool:
    """Return whether L does not see the ids and the scores of all classes renamed, 0 excepted: they are in no order."""
    scores = [slot for slot in trial.case.slots() if slot.shape.count("V") == 1]
    size = trial.case.tensor(scores[0]).shape[scores[0].shape.index("V")] if scores else 0
    return _unseen(trial, scores, [ids], _others(size) if size > 2 else torch.arange(size).flip(0))


def _unless_zero_is_meant(trial: Trial) -> str | None:
    """Return what may make 0 an id of its own: a setting, an alignment to fewer tokens, or the name of the loss."""
    settings = trial.bench.subject.settings
    said = next((name for name, value in settings.items() if type(value) is int and value == 0), None)
    if said is not None:
        return f"{said} = 0 may be the id of a blank, of padding or of a background"
    background = next((name for name in settings if "background" in name), None)
    if background is not None:
        return f"{background} says that a class is the background, and that is 0"
    if any(slot.role == "lengths" or slot.ignore == 0 for slot in trial.case.slots()):
        return "0 may be its blank or its padding"
    return "0 is its blank" if ALIGNS.search(trial.bench.subject.target.rpartition(".")[2]) else None


def _others(size: int) -> Tensor:
    """Return new names for ``size`` ids: everyone but 0 takes the next one's number."""
    return torch.tensor([0, *range(2, size), 1])


def _unseen(trial: Trial, scores: list[Slot], ids: list[Slot], renamed: Tensor) -> bool:
    return _alike(trial, trial.finite_base, trial.evaluate(_renamed(trial.case, scores, ids, renamed)))


def _alike(trial: Trial, one: Evaluation, other: Evaluation) -> bool:
    # Another order of adding up the vocabulary rounds differently, on both sides.
    return abs(float(one.value - other.value)) <= 4 * trial.value_tolerance(one).bound


def _renamed(case: Case, scores: list[Slot], ids: list[Slot], renamed: Tensor) -> Case:
    """Return the case with every token ``i`` called ``renamed[i]``; ids outside the vocabulary stay."""
    changed: dict[str, Tensor] = {}
    for slot in scores:
        changed[slot.key] = case.tensor(slot).index_select(slot.shape.index("V"), renamed.argsort())
    for slot in ids:
        tensor = case.tensor(slot)
        named = (tensor >= 0) & (tensor < len(renamed))
        renamed_ids = renamed.to(tensor.dtype)[tensor.clamp(0, len(renamed) - 1).long()]
        changed[slot.key] = torch.where(named, renamed_ids, tensor)
    return case.with_tensors(changed)
