"""Signs inside a policy-gradient loss: which way the penalty pulls, and which side the clip is on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import torch
from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.cases.token_grid import of_tokens, policy_logprobs
from loss_conformance.checks.conditions import unless
from loss_conformance.checks.context import whitens_advantages
from loss_conformance.checks.registry import check
from loss_conformance.evaluation import Evaluation
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["clip_side", "drift_is_corrected", "pulled_to_reference"]

FEWEST_TOKENS = 4
DRIFTS = (0.375, 0.5)
"""By how much a log-probability has moved the wrong way: beyond every usual clip, and short of a second one."""
NEAREST_DUAL_CLIP = math.log(1.5)
"""The smallest log-ratio at which a second clip may stop a token of negative advantage; 3 is usual for the ratio."""


def _needs(trial: Trial, kind: str) -> str | None:
    contract = trial.facts.contract
    if contract.family != "policy_gradient":
        return f"family = {contract.family!r}"
    kinds = trial.case.schema.kinds()
    if not {"model_outputs.next_token_logprobs", kind} <= kinds:
        return f"it does not read {kind.partition('.')[2]} beside the log-probabilities"
    return None


@check(
    group="direction",
    statement="With zero advantage, a policy-gradient loss pulls every token towards the reference, not away from it.",
    over=("zero_advantage",),
    why="A KL penalty added with the wrong sign rewards drift, and the policy collapses while the loss goes down.",
    cause="the penalty subtracted from the loss, or added to the reward.",
    fix="loss = policy_loss + beta * kl, or reward = reward - beta * kl.",
    seen_in="pytorch/rl@96c300322",
    applies=lambda trial: _needs(trial, "batch.reference_policy_logprobs"),
)
def pulled_to_reference(trial: Trial) -> None:
    away = towards = 0
    signs: set[float] = set()
    for case, base in trial.bench.cases_of(("zero_advantage",), 6):
        gradient, drift = _paired_tokens(case, base, "batch.reference_policy_logprobs")
        agreement = torch.sign(gradient) * torch.sign(drift)
        away, towards = away + int((agreement < 0).sum()), towards + int((agreement > 0).sum())
        signs |= set(torch.sign(drift[gradient != 0]).tolist())
    if away + towards < FEWEST_TOKENS or not {-1.0, 1.0} <= signs:
        raise NotExercised("the reference moves too few tokens to tell")
    if towards == 0:
        raise Broken(f"all {away} tokens are pushed away from the reference", "a pull towards it")


@check(
    group="direction",
    statement="A clipped surrogate stops where the policy has already moved the way the advantage asks, not where it has not.",
    over=("off_policy",),
    why="With min and max exchanged the clip is optimistic: it stops correcting mistakes and rewards overshooting.",
    cause="min for max (or max for min) between the two surrogates, or bounds exchanged.",
    fix="loss = max(-A * ratio, -A * clip(ratio)).",
    seen_in="volcengine/verl@88db55407",
    applies=lambda trial: _needs(trial, "batch.prev_logprobs"),
)
def clip_side(trial: Trial) -> None:
    wrong = right = 0
    for case, base in trial.bench.cases_of(("off_policy",), 6):
        stopped, moved, a = _stopped_tokens(case, base)
        overshot = torch.sign(moved) == torch.sign(a)
        right, wrong = right + int((stopped & overshot).sum()), wrong + int((stopped & ~overshot).sum())
    if right + wrong < FEWEST_TOKENS:
        raise NotExercised("too few tokens are clipped to tell")
    if right == 0:
        if not any(bool(_stopped_tokens(case, base)[0].any()) for case, base in _of_single_tokens(trial)):
            raise NotExercised("what gets no gradient is so far off that its weight is 0: nothing is cut off")
        raise Broken(f"all {wrong} tokens that get no gradient still have to be corrected", "those that overshot")


@check(
    group="direction",
    statement="A token whose term counts and that has moved against its advantage gets a gradient that brings it back.",
    over=("off_policy",),
    why="A clamped ratio alone is no pessimistic bound: what has drifted the wrong way stays there, at full loss.",
    cause="the ratio, or its logarithm, clamped without the minimum over both surrogates; a clamp that is not detached.",
    fix="loss = max(-A * ratio, -A * clip(ratio)), or a detached weight times the log-probability.",
    applies=lambda trial: unless("coupled")(trial) or _needs(trial, "batch.prev_logprobs"),
)
def drift_is_corrected(trial: Trial) -> None:
    stuck = tried = 0
    for case, base in _of_single_tokens(trial):
        stopped, moved, a = _stopped_tokens(case, base)
        # A second bound on the ratio, far above 1, may stop a token of negative advantage: dual clipping.
        against = (torch.sign(moved) == -torch.sign(a)) & ((a > 0) | (moved < NEAREST_DUAL_CLIP))
        tried += int(against.sum())
        # Where their advantage is not felt they are left out altogether, which masks do on purpose.
        if bool((stopped & against).any()) and _feels(trial, case, base, stopped & against):
            stuck += int((stopped & against).sum())
    if tried < FEWEST_TOKENS:
        raise NotExercised("too few tokens have moved against their advantage to tell")
    if stuck:
        if whitens_advantages(trial, trial.case):
            raise NotExercised("it normalises its advantages itself, which may change their signs")
        declared = trial.facts.origin.get("family") == "declared"
        raise Broken(
            f"{stuck} of {tried} tokens that moved against their advantage count in L and get no gradient",
            "a gradient at each of them",
            guessed=not declared,
            declare="" if declared else "Contract(family=...)",
        )


def _of_single_tokens(trial: Trial) -> Iterator[tuple[Case, Evaluation]]:
    """Yield cases with one trained token per row, moved against its advantage: there an answer's ratio is its token's."""
    route = trial.bench.route_of(trial.case)
    for plan, drift in product(trial.bench.pool["off_policy"], DRIFTS):
        case = trial.bench.case(replace(plan, tokens=2, mask="full"), route)
        own, old, advantages = policy_logprobs(case), case.schema.find("batch.prev_logprobs"), _advantages(case)
        if own is None or old is None or advantages is None or old.token_axis is None:
            return
        before = (own + drift * torch.sign(advantages)).clamp(max=0.0)
        case = case.with_tensors({old.key: before[:, old.shift : old.shift + case.tensor(old).shape[1]]})
        yield case, trial.evaluate(case)


def _advantages(case: Case) -> Tensor | None:
    slot = case.schema.find("batch.advantages")
    return None if slot is None else of_tokens(case, slot, case.tensor(slot))


def _feels(trial: Trial, case: Case, base: Evaluation, tokens: Tensor) -> bool:
    """Return whether the value changes with the advantage of these trained tokens."""
    advantages = case.schema.find("batch.advantages")
    if advantages is None:
        return False
    larger = case.tensor(advantages).clone()
    where = (case.trained & (case.rows != 0)[:, None])[:, advantages.shift : advantages.shift + larger.shape[1]]
    larger[where] = torch.where(tokens, 2 * larger[where], larger[where])
    return trial.moves(base, trial.evaluate(case.with_tensors({advantages.key: larger})))[0]


def _stopped_tokens(case: Case, base: Evaluation) -> tuple[Tensor, Tensor, Tensor]:
    """Return, per trained token: whether it gets no gradient, its log-ratio, its advantage."""
    policy, advantages = case.schema.find("model_outputs.next_token_logprobs"), case.schema.find("batch.advantages")
    if policy is None or advantages is None or advantages.token_axis is None:
        none = torch.zeros(0)
        return none.bool(), none, none
    gradient, moved = _paired_tokens(case, base, "batch.prev_logprobs")
    a = _at_active(case, case.tensor(advantages), advantages.shift)
    return (gradient == 0) & (a != 0), moved, a


def _paired_tokens(case: Case, base: Evaluation, kind: str) -> tuple[Tensor, Tensor]:
    """Return (gradient, lp - other lp) of every trained token, each one-dimensional."""
    policy = case.schema.find("model_outputs.next_token_logprobs")
    other = case.schema.find(kind)
    if policy is None or other is None or policy.key not in base.gradients:
        return torch.zeros(0), torch.zeros(0)
    lp = _at_active(case, case.tensor(policy), policy.shift)
    return _at_active(case, base.gradients[policy.key], policy.shift), lp - _at_active(
        case, case.tensor(other), other.shift
    )


def _at_active(case: Case, tensor: Tensor, shift: int) -> Tensor:
    """Return the entries of a [B, S'] tensor that speak of trained tokens of rows with weight, in one fixed order."""
    trained = case.trained & (case.rows != 0)[:, None]
    return tensor[trained[:, shift : shift + tensor.shape[1]]]
