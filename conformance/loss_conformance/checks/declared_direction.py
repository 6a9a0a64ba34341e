"""Declared directions: the loss rises with a penalty, falls with a score, as its contract says."""

from __future__ import annotations

from typing import Any, Final

import torch

from loss_conformance.cases.slot import ARGUMENT
from loss_conformance.checks.registry import check
from loss_conformance.evaluation import Evaluation, LossRaised
from loss_conformance.report.numbers import number
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["declared_direction"]

# Not inputs or options of their own: the scores of a pair, judged by wanted_direction.
PAIR_SCORES = ("chosen_scores", "rejected_scores")

BY_NAME: Final = {
    **dict.fromkeys(("entropy_coef", "entropy_coeff", "entropy_coefficient", "entropy_weight", "ent_coef"), -1),
    **dict.fromkeys(("z_weight", "z_loss_weight", "z_loss_coef", "z_loss_multiplier"), +1),
}
"""Settings whose name says which way they act: a bonus for entropy, a penalty that is a square."""
RANKED: Final = ("negative", "rejected", "rejected_rewards", "policy_rejected_logps")
"""Arguments that something else is to beat: there a margin is what it is to be beaten by."""


@check(
    group="direction",
    statement="L rises (falls) weakly with every field and option whose contract says direction +1 (-1).",
    over=("typical", "off_policy", "full", "holes"),
    why="A penalty with the wrong sign rewards what it should discourage, and the loss still goes down.",
    cause="a penalty subtracted instead of added, or a bonus added instead of subtracted.",
    fix="Check the sign of the term against the paper.",
    seen_in="pytorch/rl@96c300322",
    applies=lambda trial: None if _directions(trial) else "no direction of a field or option is declared",
)
def declared_direction(trial: Trial) -> None:
    tried = False
    for name, sign in _directions(trial).items():
        higher = _raised(trial, name)
        if higher is None:
            continue
        tried = True
        base = trial.finite_base
        moved = sign * float(higher.value - base.value)
        if moved < -trial.value_tolerance(base).bound - trial.value_tolerance(higher).bound:
            wanted = "a higher L" if sign > 0 else "a lower L"
            raise Broken(
                f"{number(higher.value)}, from {number(base.value)}",
                wanted,
                changed=f"{name} raised",
                guessed=name not in trial.facts.contract.direction,
                declare=f"Contract(direction={{{name!r}: ...}})",
            )
    if not tried:
        raise NotExercised("none of the declared names is an input or a number it is constructed with")


def _directions(trial: Trial) -> dict[str, int]:
    """Return the declared directions, and those that the name of a setting gives away."""
    declared = {name: sign for name, sign in trial.facts.contract.direction.items() if name not in PAIR_SCORES}
    ranked = any(slot.place == ARGUMENT and slot.name in RANKED for slot in trial.case.slots())
    by_name = {**BY_NAME, "margin": +1} if ranked else BY_NAME
    named = {name: sign for name, sign in by_name.items() if name in trial.bench.subject.settings}
    return {**named, **declared}


def _raised(trial: Trial, name: str) -> Evaluation | None:
    """Return the loss with a field or option raised, or ``None`` when there is nothing of that name to raise."""
    for slot in trial.case.slots():
        if slot.name == name and not slot.integer:
            tensor = trial.case.tensor(slot)
            step = 0.25 * torch.rand(tensor.shape, generator=torch.Generator().manual_seed(0), dtype=tensor.dtype)
            higher = torch.clamp(tensor + step, max=0.0) if slot.role == "logprobs" else tensor + step
            return trial.evaluate(trial.case.with_tensors({slot.key: higher}))
    value: Any = trial.bench.subject.settings.get(name)
    rebuild = trial.bench.subject.rebuild
    if rebuild is None or isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        higher = rebuild({name: value + abs(value) if value else 0.1})
    except (ValueError, TypeError, AssertionError):
        return None
    try:
        return trial.evaluate(trial.case, loss=higher)
    except LossRaised as raised:
        if raised.wants(trial.case, trial.facts.contract.fields):
            return None  # at 0 it does not read what it multiplies, and no case has that
        raise
