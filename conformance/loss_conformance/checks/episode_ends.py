"""Ends of episodes: behind the last step there is no next state, whatever its entry in the batch holds."""

from __future__ import annotations

import re
from typing import Final

import torch
from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.cases.slot import Slot
from loss_conformance.checks.conditions import unless
from loss_conformance.checks.registry import check
from loss_conformance.report.numbers import number
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["ended_episodes"]

OVER: Final = re.compile(
    r"(is_)?(dones?|terminateds?|terminals?|terminations?|episode_ends?)(_(mask|flags?))?", re.IGNORECASE
)
NEXT: Final = re.compile(r"next_.*|.*_next", re.IGNORECASE)
STEP: Final = 1.5


@check(
    group="masking",
    statement="Where an episode has ended, nothing that belongs to the next state matters.",
    over=("typical", "full"),
    why="The state after the last is that of another episode: values leak across, and no end is ever worth its reward alone.",
    cause="(1 - done) in front of some of the terms of the next state, or done for 1 - done.",
    fix="target = reward + (1 - done) * gamma * (next_value - alpha * next_logprob).",
    seen_in="DLR-RM/stable-baselines3#76",
    applies=lambda trial: unless("stochastic", "stateful")(trial),
)
def ended_episodes(trial: Trial) -> None:
    over = [slot for slot in trial.case.slots() if OVER.fullmatch(slot.name)]
    following = [slot for slot in trial.case.slots() if NEXT.fullmatch(slot.name) and not slot.integer]
    if len(over) != 1 or not following:
        raise NotExercised("it reads no ends of episodes beside what comes next")
    ended, going_on = (_with(trial.case, over[0], value) for value in (1, 0))
    base = trial.evaluate(ended)
    if not bool(torch.isfinite(base.value)):
        raise NotExercised("the loss is not finite there, which is the finite checks' to say")
    for slot in following:
        other = {slot.key: _another(slot, trial.case.tensor(slot))}
        got = trial.evaluate(ended.with_tensors(other))
        if not any(trial.moves(base, got)):
            continue
        still = trial.moves(trial.evaluate(going_on), trial.evaluate(going_on.with_tensors(other)))
        raise Broken(
            f"L from {number(base.value)} to {number(got.value)}",
            "no change",
            changed=f"every {over[0].key} 1; {slot.key}",
            cause="" if any(still) else f"{over[0].key} is taken for its opposite: {slot.key} matters there alone.",
            guessed=not {over[0].name, slot.name} <= trial.facts.contract.fields.keys(),
        )


def _with(case: Case, slot: Slot, value: int) -> Case:
    return case.with_tensors({slot.key: torch.full_like(case.tensor(slot), value)})


def _another(slot: Slot, tensor: Tensor) -> Tensor:
    """Return other content: a distribution with its entries exchanged, anything else moved."""
    if slot.role == "probabilities" or (slot.role == "logprobs" and slot.shape[-1:] == ("V",)):
        return tensor.roll(1, -1)
    return tensor - STEP if slot.role == "logprobs" else tensor + STEP
