"""Opposites: what is compared with the policy, or with a value, pulls the other way."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.cases.slot import Slot
from loss_conformance.checks.registry import check
from loss_conformance.report.numbers import number
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["reference_opposes", "strayed_values_return"]

STEP = 0.25
STRAYED = 1.0
"""By how much a value has moved away from its return: beyond every usual clip."""


@check(
    group="direction",
    statement="Where L falls with the policy's log-probability of one side of a pair, it rises with the reference's.",
    over=("typical", "full"),
    why="A reference that pulls with the policy rewards what was likely before training, and no curve shows it.",
    cause="chosen and rejected exchanged, or a sign lost, in the log-ratio of the reference.",
    fix="(policy_chosen - policy_rejected) - (reference_chosen - reference_rejected).",
    applies=lambda trial: (
        None if trial.facts.contract.family == "preference" else f"family = {trial.facts.contract.family!r}"
    ),
)
def reference_opposes(trial: Trial) -> None:
    base = trial.finite_base
    bound = trial.value_tolerance(base).bound
    with_policy: list[str] = []
    for side in ("chosen", "rejected"):
        moved = [_lowered(trial.case, side, whose) for whose in ("policy", "reference")]
        if any(case is None for case in moved):
            raise NotExercised("it compares no policy with a reference in pairs")
        by_policy, by_reference = (float(trial.evaluate(c).value - base.value) for c in moved if c is not None)
        if min(abs(by_policy), abs(by_reference)) <= bound:
            raise NotExercised(f"L does not move with both log-probabilities of the {side} answer")
        if by_policy * by_reference > 0:
            with_policy.append(
                f"{side}: L moves by {number(by_policy)} with the policy, by {number(by_reference)} with the reference"
            )
    if with_policy:
        declared = trial.facts.origin.get("family") == "declared"
        # Of both sides it is an exchange; of one, a term of its own may do it.
        raise Broken(
            "; ".join(with_policy),
            "moves of opposite sign",
            changed=f"the log-probabilities of one answer of every pair lowered by {STEP}",
            guessed=len(with_policy) < 2 or (trial.foreign and not declared and not _named(trial.case)),
        )


@check(
    group="direction",
    statement="A value that has moved away from its return, far beyond the clip, gets a gradient that brings it back.",
    over=("typical", "full"),
    why="With the smaller of the two errors taken, the critic stops correcting exactly where it is wrong.",
    cause="min for max between the clipped and the unclipped error.",
    fix="loss = max((v - R)^2, (clip(v, old - c, old + c) - R)^2).",
    applies=lambda trial: (
        None if trial.facts.contract.family == "value" else f"family = {trial.facts.contract.family!r}"
    ),
)
def strayed_values_return(trial: Trial) -> None:
    found = {slot.kind: slot for slot in trial.case.slots()}
    values, old, returns = (found.get(kind) for kind in ("model_outputs.values", "batch.values", "batch.returns"))
    if values is None or old is None or returns is None:
        raise NotExercised("it reads no old values and returns beside the values")
    case = trial.case
    v_old, R = case.tensor(old), case.tensor(returns)
    if not v_old.shape == R.shape == case.tensor(values).shape:
        raise NotExercised("values, old values and returns have different shapes")
    away = torch.where(v_old <= R, -STRAYED, STRAYED)
    strayed = case.with_tensors({values.key: v_old + away})
    gradient = trial.evaluate(strayed).gradients[values.key]
    usual = trial.evaluate(case.with_tensors({values.key: v_old - away / 16})).gradients[values.key]
    # Where it is felt beside the old value it is felt here too, or it was left out by a mask.
    stuck = (gradient == 0) & (usual != 0)
    if bool(stuck.any()):
        raise Broken(
            f"{int(stuck.sum())} of {int((usual != 0).sum())} values get no gradient",
            "a gradient at each",
            changed=f"every value moved by {STRAYED:g} from its old one, away from the return",
            guessed=trial.facts.origin.get("family") != "declared",
        )


def _named(case: Case) -> bool:
    return any(slot.kind.startswith("pair.policy") for slot in case.slots())


def _lowered(case: Case, side: str, whose: str) -> Case | None:
    """Return the case with the log-probabilities of one side of every pair lowered; ``None`` when it has none."""
    by_name: Slot | None = case.schema.find(f"pair.{whose}_{side}_logps")
    if by_name is not None and by_name.key in case.tensors:
        return case.with_tensors({by_name.key: case.tensor(by_name) - STEP})
    kind = {"policy": "model_outputs.next_token_logprobs", "reference": "batch.reference_policy_logprobs"}[whose]
    slot = case.schema.find(kind)
    if slot is None or slot.key not in case.tensors or not case.schema.paired:
        return None
    lowered: Tensor = case.tensor(slot).clone()
    rows: Any = slice(0 if side == "chosen" else 1, None, 2)
    lowered[rows] -= STEP
    return case.with_tensors({slot.key: lowered})
