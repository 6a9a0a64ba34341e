"""Signs inside a policy-gradient loss: which way the penalty pulls, and which side the clip is on."""

from __future__ import annotations

import torch
from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.checks.registry import check
from loss_conformance.evaluation import Evaluation
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["clip_side", "pulled_to_reference"]

FEWEST_TOKENS = 4


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
        advantages = case.schema.find("batch.advantages")
        if (
            advantages is None
            or advantages.token_axis is None
            or not case.schema.find("model_outputs.next_token_logprobs")
        ):
            continue
        gradient, moved = _paired_tokens(case, base, "batch.prev_logprobs")
        a = _at_active(case, case.tensor(advantages), advantages.shift)
        stopped = (gradient == 0) & (a != 0)
        overshot = torch.sign(moved) == torch.sign(a)
        right, wrong = right + int((stopped & overshot).sum()), wrong + int((stopped & ~overshot).sum())
    if right + wrong < FEWEST_TOKENS:
        raise NotExercised("too few tokens are clipped to tell")
    if right == 0:
        raise Broken(f"all {wrong} tokens that get no gradient still have to be corrected", "those that overshot")


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
