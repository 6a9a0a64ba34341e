"""Opposites: what is compared with the policy, or with a value, pulls the other way."""

from __future__ import annotations

import torch
from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.cases.perturb import shares
from loss_conformance.cases.token_grid import LOGPROBS, of_tokens, on_policy, policy_logprobs, policy_slopes
from loss_conformance.checks.conditions import declared_only, unless
from loss_conformance.checks.registry import check
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["pulled_to_teacher", "reference_opposes", "rewards_oppose", "strayed_values_return"]

REWARD = 0.5
"""By how much rewards are moved."""
FEWEST_TOKENS = 6
TEACHER = "batch.teacher_logprobs"
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


@check(
    group="direction",
    statement="Moving the rewards of the two answers of a pair apart, one down and one up, changes L.",
    over=("typical", "full"),
    why="Which answer is better, and by how much, is their difference; their sum says how easy the prompt was.",
    cause="rewards_chosen + rewards_rejected for their difference, or one of the two read alone.",
    fix="rewards[0::2] - rewards[1::2].",
    applies=lambda trial: unless("stochastic", "coupled")(trial) or _unless_rewarded(trial),
)
def rewards_oppose(trial: Trial) -> None:
    case, base, rewards = trial.case, trial.finite_base, trial.case.schema.find("batch.rewards")
    assert rewards is not None
    step = REWARD * torch.tensor([1.0, -1.0]).repeat(len(case.rows) // 2).to(case.tensor(rewards))

    def moves(by: Tensor) -> bool:
        return any(trial.moves(base, trial.evaluate(case.with_tensors({rewards.key: case.tensor(rewards) + by}))))

    alone = [moves(step.clamp(min=0)), moves(step.clamp(max=0))]
    if all(alone) and not moves(step):
        raise Broken(
            "L and its gradient do not change, though they do with either alone",
            "an L that depends on the difference of the two",
            changed="the reward of every chosen answer raised, that of every rejected one lowered as much",
            **declared_only(trial, "family"),
        )
    if any(alone) and not all(alone):
        side = "rejected" if alone[0] else "chosen"
        raise Broken(
            f"the rewards of the {side} answers change nothing",
            "an L that depends on the rewards of both",
            changed=f"the reward of every {side} answer",
            guessed=True,
        )


@check(
    group="direction",
    statement="On tokens the student sampled, it is pulled towards the log-probabilities of the teacher, not away from them.",
    over=("typical", "full"),
    why="A flipped sign makes the student avoid what the teacher likes, while the loss moves as it would in training.",
    cause="teacher - student as the weight of the log-probability, without the minus in front.",
    fix="loss = -(lp_teacher - lp).detach() * lp.",
    applies=lambda trial: (
        None
        if trial.facts.contract.family == "distillation" and trial.case.schema.find(TEACHER) is not None
        else "it reads no log-probabilities of a teacher"
    ),
)
def pulled_to_teacher(trial: Trial) -> None:
    towards = away = 0
    for drawn, _ in trial.bench.cases_of(("typical", "full"), 4):
        case, slot = on_policy(drawn), drawn.schema.find(TEACHER)
        if case is None or slot is None or slot.key not in case.tensors:
            continue
        own, slopes = policy_logprobs(case), policy_slopes(case, dict(trial.evaluate(case).gradients))
        if own is None or slopes is None:
            continue
        trained = case.trained & (case.rows != 0)[:, None]
        wanted = torch.sign(of_tokens(case, slot, case.tensor(slot)) - own)[trained]
        pull = -torch.sign(torch.nan_to_num(slopes))[trained] * wanted
        towards, away = towards + int((pull > 0).sum()), away + int((pull < 0).sum())
    if towards + away < FEWEST_TOKENS:
        raise NotExercised("too few sampled tokens receive gradient to tell")
    if towards == 0:
        raise Broken(
            f"all {away} tokens are pushed away from the teacher",
            "a pull towards it",
            **declared_only(trial, "family"),
        )


def _unless_rewarded(trial: Trial) -> str | None:
    if trial.facts.contract.family != "preference" or not trial.case.schema.paired:
        return "it compares no answers in pairs"
    rewards = trial.case.schema.find("batch.rewards")
    return None if rewards is not None and rewards.shape == ("B",) else "it reads no rewards of them"


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
