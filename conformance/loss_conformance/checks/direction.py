"""Direction: the loss falls where the model should go."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.cases.plan import ORDINARY
from loss_conformance.cases.slot import Slot
from loss_conformance.checks.registry import check
from loss_conformance.evaluation import Evaluation
from loss_conformance.facts.facts import Facts
from loss_conformance.report.numbers import number
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["wanted_direction"]

# Families in which the log-probability of what was sampled has one wanted direction, and the word for it.
_RULED: Final = ("supervised", "preference", "policy_gradient", "value", "reward")


@check(
    group="direction",
    statement="L falls as the log-probability (score) of what is wanted rises, on balance over the batch.",
    over=("on_policy", "typical", "full"),
    why="A flipped sign trains away from the goal while every other property holds; libraries have shipped it for weeks.",
    cause="a missing minus, chosen and rejected exchanged, or a penalty added where it should be subtracted.",
    fix="Check the sign of every term against the paper, and which rows are chosen (0, 2, 4, ...).",
    seen_in="DLR-RM/stable-baselines3@8f9aaaeb",
    applies=lambda trial: (
        None if trial.facts.contract.family in _RULED else f"family = {trial.facts.contract.family!r} has no direction"
    ),
)
def wanted_direction(trial: Trial) -> None:
    slopes = _slopes(trial, trial.case, trial.finite_base)
    if not slopes:
        raise NotExercised("no gradient towards or away from the goal in this case")
    if sum(slopes) <= 0:
        return
    # Smoothing, margins and penalties legitimately pull single terms back; the balance of the whole run must be right.
    everywhere = [
        x for case, base in trial.bench.cases_of(("on_policy", *ORDINARY), 3) for x in _slopes(trial, case, base)
    ]
    if sum(everywhere) <= 0:
        return
    flipped = all(x > 0 for x in everywhere)
    declared = trial.facts.origin.get("family") == "declared"
    raise Broken(
        f"along the wanted direction L rises, by {number(sum(slopes))} in all "
        f"({sum(x > 0 for x in slopes)} of {len(slopes)} terms)",
        "L falls",
        cause="the sign of the whole loss is flipped." if flipped else "",
        # A subclass inherits the family and may add terms of its own, which go their own way.
        guessed=not (declared or flipped),
        declare="" if declared else f"Contract(family=...) if {trial.facts.contract.family!r} is not what it is",
    )


def _slopes(trial: Trial, case: Case, base: Evaluation) -> list[float]:
    """Return the slope of every term along the wanted direction, those that are 0 up to rounding left out."""
    found = []
    for slot, push in _pushes(trial.facts, case, base):
        tolerance = trial.gradient_tolerance(slot.key, base.gradients[slot.key]).bound
        found += [float(x) for x in push[push.abs() > tolerance]]
    return found


def _pushes(facts: Facts, case: Case, base: Evaluation) -> Iterator[tuple[Slot, Tensor]]:
    """Yield the slope of L along the wanted direction, one entry per term: it should never be above 0."""
    family = facts.contract.family
    for slot in case.slots():
        gradient = base.gradients.get(slot.key)
        if gradient is None or not bool((gradient != 0).any()):
            continue
        along = _of_sampled_tokens(case, slot, gradient)
        if along is None:
            continue
        if family == "preference" and case.schema.paired:
            rows = torch.nan_to_num(along).reshape(len(along), -1).sum(-1)
            won = _first_won(case)
            yield slot, torch.cat((rows[0::2] * won, -rows[1::2] * won))
        elif family == "reward" and case.schema.paired:
            yield slot, torch.cat((along[0::2], -along[1::2]))
        elif family == "policy_gradient":
            yield from _along_advantages(case, slot, along)
        elif family == "value":
            yield from _towards_returns(facts, case, slot, along)
        elif family == "supervised" and case.active(slot).any():
            yield slot, along.flatten()


def _first_won(case: Case) -> Tensor:
    """Return +1 for pairs whose first row is the preferred one, -1 for the others, which only labels can say."""
    labels = case.schema.find("batch.labels")
    if labels is None:
        return torch.ones(len(case.rows) // 2, dtype=torch.float64)
    return torch.where(case.tensor(labels)[0::2] != 0, 1.0, -1.0).to(torch.float64)


def _of_sampled_tokens(case: Case, slot: Slot, gradient: Tensor) -> Tensor | None:
    """Return the slope along the score of the sampled token, [B, S'] or [B], for inputs that have one."""
    if slot.kind in ("model_outputs.next_token_logprobs", "model_outputs.values", "model_outputs.rewards"):
        return gradient
    ids = case.schema.find("batch.input_ids")
    if slot.kind != "model_outputs.logits" or ids is None or slot.shift != 1:
        return None
    # An ignored label (-100) has no gradient to gather.
    targets = case.tensor(ids)[:, 1 : gradient.shape[1] + 1].clamp(min=0)
    return gradient[:, : targets.shape[1]].gather(-1, targets.unsqueeze(-1)).squeeze(-1)


def _along_advantages(case: Case, slot: Slot, along: Tensor) -> Iterator[tuple[Slot, Tensor]]:
    """On policy the surrogate's slope is -A / N, so it must have the sign of -A; elsewhere clipping and KL add their own."""
    advantages = case.schema.find("batch.advantages")
    if advantages is None or case.plan is None or case.plan.regime != "on_policy":
        return
    a = case.tensor(advantages)
    a = a[:, None].expand(along.shape) if a.dim() == 1 < along.dim() else a
    a = a[:, a.shape[1] - along.shape[1] :] if a.shape[1] >= along.shape[1] else a
    if a.shape == along.shape:
        yield slot, (along * torch.sign(a)).flatten()


def _towards_returns(facts: Facts, case: Case, slot: Slot, along: Tensor) -> Iterator[tuple[Slot, Tensor]]:
    returns = case.schema.find("batch.returns")
    if facts.contract.level not in (None, "token"):
        return
    if returns is not None and case.tensor(returns).shape == along.shape:
        yield slot, (along * torch.sign(case.tensor(returns) - case.tensor(slot))).flatten()
