"""Opposites: what is compared with the policy, or with a value, pulls the other way."""

from __future__ import annotations

import torch
from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.cases.perturb import shares
from loss_conformance.cases.token_grid import LOGPROBS, of_tokens
from loss_conformance.checks.registry import check
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["reference_opposes", "strayed_values_return"]

STRAYED = 1.0
"""By how much a value has moved away from its return: beyond every usual clip."""


@check(
    group="direction",
    statement="Moving policy and reference of the same answers apart, one down and one up, changes L.",
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
    for side in ("chosen", "rejected"):
        apart = _moved_apart(trial.case, side)
        if apart is None:
            raise NotExercised("it compares no policy with a reference in pairs")
        policy, reference = apart
        alone = [trial.moves(base, trial.evaluate(trial.case.with_tensors(one)))[0] for one in apart]
        if all(alone) and not any(trial.moves(base, trial.evaluate(trial.case.with_tensors({**policy, **reference})))):
            # What is felt of each and not of both is a sum of the two where a difference was meant.
            raise Broken(
                "L and its gradient do not change, though they do with either alone",
                "an L that depends on policy - reference",
                changed=f"the policy's log-probabilities of the {side} answers lowered, the reference's raised as much",
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


def _moved_apart(case: Case, side: str) -> tuple[dict[str, Tensor], dict[str, Tensor]] | None:
    """Return the policy lowered and the reference raised as much, of one side of every pair; ``None`` when it has none."""
    own, other = (case.schema.find(f"pair.{whose}_{side}_logps") for whose in ("policy", "reference"))
    if own is not None and other is not None and {own.key, other.key} <= case.tensors.keys():
        by = _room(case.tensor(other))
        return {own.key: case.tensor(own) - by}, {other.key: case.tensor(other) + by}
    own, other = case.schema.find(LOGPROBS), case.schema.find("batch.reference_policy_logprobs")
    if own is None or other is None or not case.schema.paired or not {own.key, other.key} <= case.tensors.keys():
        return None
    if own.token_axis is None or other.token_axis is None:
        return None
    policy, reference = case.tensor(own).clone(), case.tensor(other).clone()
    rows = torch.arange(0 if side == "chosen" else 1, len(policy), 2)
    by = of_tokens(case, other, _room(reference))[rows]
    policy[rows] -= by[:, own.shift : own.shift + policy.shape[1]]
    reference[rows] += by[:, other.shift : other.shift + reference.shape[1]]
    return {own.key: policy}, {other.key: reference}


def _room(logprobs: Tensor) -> Tensor:
    """Return by how much log-probabilities may rise and stay below 0, by another amount for each."""
    return 0.25 * (1.0 + shares(logprobs)) * logprobs.abs()
