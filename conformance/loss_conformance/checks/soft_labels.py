"""Soft labels: a share between 0 and 1 acts as a share, not as the nearer of the two."""

from __future__ import annotations

import re
from typing import Final

import torch

from loss_conformance.cases.label_values import BINARY
from loss_conformance.cases.slot import ARGUMENT, Slot
from loss_conformance.checks.conditions import unless
from loss_conformance.checks.registry import check
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["soft_labels_are_felt"]

VISITED: Final = ("typical", "full", "off_policy")
CASES: Final = 2
CUT: Final = re.compile(r"(.*_)?(threshold|thresh|thr|cutoff|min_conf(idence)?)(_.*)?", re.IGNORECASE)
HALF: Final = 0.5
OF_CLASSES: Final = ("V", "K")


@check(
    group="options",
    statement="A target between 0 and 1 that is moved, and stays on its side of a half, changes the gradient of L.",
    over=("typical",),
    why="A step that led to the answer in 3 of 10 attempts is trained as one that never did.",
    cause="(target > 0.5), target.round() or target.bool() before the cross-entropy.",
    fix="-(y * logsigmoid(x) + (1 - y) * logsigmoid(-x)) with y as it is.",
    applies=lambda trial: unless("stochastic", "stateful")(trial) or _unless_shares(trial),
)
def soft_labels_are_felt(trial: Trial) -> None:
    acts = False
    for slot in _shares(trial):
        across, within = _felt(trial, slot)
        acts = acts or across
        if across and not within:
            declared = slot.place != ARGUMENT or slot.name in trial.facts.contract.fields
            raise Broken(
                f"L depends on which side of a half {slot.key} lies, and on nothing else of it",
                "an L that depends on how large each share is",
                changed=f"every entry of {slot.key} moved half-way to the nearer of 0 and 1",
                guessed=not declared,
                declare="" if declared else f"Contract(fields={{{slot.name!r}: Field('probabilities', ...)}})",
            )
    if not acts:
        raise NotExercised("its shares change nothing, which input_effect says")


def _felt(trial: Trial, slot: Slot) -> tuple[bool, bool]:
    """Return whether L follows these shares across a half, and whether it does within each side of it."""
    across = False
    for case, base in trial.bench.cases_of(VISITED, CASES):
        if slot.key not in case.tensors:
            continue
        share = case.tensor(slot)
        nearer = torch.where(share < HALF, share / 2, (1 + share) / 2)
        if torch.equal(nearer, share):
            continue  # 0 and 1 alone, of a batch in which nothing is to be found
        if any(trial.moves(base, trial.evaluate(case.with_tensors({slot.key: nearer})))):
            return True, True
        across = across or any(trial.moves(base, trial.evaluate(case.with_tensors({slot.key: 1 - share}))))
    return across, False


def _unless_shares(trial: Trial) -> str | None:
    if any(map(CUT.fullmatch, trial.bench.subject.settings)):
        return "a setting says where its targets are cut"
    return None if _shares(trial) else "it reads no constant that is a share"


def _shares(trial: Trial) -> list[Slot]:
    """Return the constants that are shares one by one: of a distribution over classes the largest may be all that counts."""
    return [
        slot
        for slot in trial.case.slots()
        if not slot.trainable
        and not slot.integer
        and slot.kind != BINARY
        and not set(OF_CLASSES) & set(slot.shape)
        and (slot.role == "probabilities" or (slot.role == "values" and slot.low == 0.0 and slot.high == 1.0))
    ]
