"""Direction: the loss falls where the model should go."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor

from loss_conformance.cases.slot import Slot
from loss_conformance.checks.registry import check
from loss_conformance.evaluation import Evaluation
from loss_conformance.report.numbers import number
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["wanted_direction"]

# Families in which the log-probability of what was sampled has one wanted direction, and the word for it.
_RULED: Final = ("supervised", "preference", "policy_gradient", "value", "reward")


@check(
    group="direction",
    statement="L falls as the log-probability (score) of what is wanted rises: dL/d(wanted) ≤ 0, dL/d(unwanted) ≥ 0.",
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
    base = trial.finite_base
    wrong, right = [], 0
    for slot, push in _pushes(trial, base):
        tolerance = trial.gradient_tolerance(slot.key, base.gradients[slot.key]).bound
        wrong += [(slot, float(x)) for x in push[push > tolerance]]
        right += int((push < -tolerance).sum())
    if not wrong and not right:
        raise NotExercised("no gradient towards or away from the goal in this case")
    if wrong:
        slot, slope = max(wrong, key=lambda pair: pair[1])
        reversed_everywhere = right == 0
        promised = trial.facts.promised("family")
        if not promised and not reversed_everywhere and trial.facts.contract.family != "policy_gradient":
            raise NotExercised("some terms go one way, some the other: the guessed family may be another")
        raise Broken(
            f"L rises by {number(slope)} per unit along the wanted direction of {slot.key} "
            f"({len(wrong)} of {len(wrong) + right} terms)",
            "L falls, or stays",
            cause="the sign of the whole loss is flipped." if reversed_everywhere else "",
            guessed=not (promised or reversed_everywhere),
            declare="" if promised else f"Contract(family={trial.facts.contract.family!r}) if it is one",
        )


def _pushes(trial: Trial, base: Evaluation) -> Iterator[tuple[Slot, Tensor]]:
    """Yield the slope of L along the wanted direction, one entry per term: it should never be above 0."""
    family = trial.facts.contract.family
    for slot in trial.case.slots():
        gradient = base.gradients.get(slot.key)
        if gradient is None or not bool((gradient != 0).any()):
            continue
        along = _of_sampled_tokens(trial, slot, gradient)
        if along is None:
            continue
        if family == "preference" and trial.case.schema.paired:
            rows = torch.nan_to_num(along).reshape(len(along), -1).sum(-1)
            yield slot, torch.cat((rows[0::2], -rows[1::2]))
        elif family == "reward" and trial.case.schema.paired:
            yield slot, torch.cat((along[0::2], -along[1::2]))
        elif family == "policy_gradient":
            yield from _along_advantages(trial, slot, along)
        elif family == "value":
            yield from _towards_returns(trial, slot, along)
        elif family == "supervised" and trial.case.active(slot).any():
            yield slot, along.flatten()


def _of_sampled_tokens(trial: Trial, slot: Slot, gradient: Tensor) -> Tensor | None:
    """Return the slope along the score of the sampled token, [B, S'] or [B], for inputs that have one."""
    if slot.kind in ("model_outputs.next_token_logprobs", "model_outputs.values", "model_outputs.rewards"):
        return gradient
    ids = trial.case.schema.find("batch.input_ids")
    if slot.kind != "model_outputs.logits" or ids is None or slot.shift != 1:
        return None
    targets = trial.case.tensor(ids)[:, 1 : gradient.shape[1] + 1]
    return gradient[:, : targets.shape[1]].gather(-1, targets.unsqueeze(-1)).squeeze(-1)


def _along_advantages(trial: Trial, slot: Slot, along: Tensor) -> Iterator[tuple[Slot, Tensor]]:
    """On policy the surrogate's slope is -A / N, so it must have the sign of -A; elsewhere clipping and KL add their own."""
    advantages = trial.case.schema.find("batch.advantages")
    if advantages is None or trial.case.plan is None or trial.case.plan.regime != "on_policy":
        return
    a = trial.case.tensor(advantages)
    a = a[:, a.shape[1] - along.shape[1] :] if a.shape[1] >= along.shape[1] else a
    if a.shape == along.shape:
        yield slot, (along * torch.sign(a)).flatten()


def _towards_returns(trial: Trial, slot: Slot, along: Tensor) -> Iterator[tuple[Slot, Tensor]]:
    returns = trial.case.schema.find("batch.returns")
    if returns is not None and trial.case.tensor(returns).shape == along.shape:
        yield slot, (along * torch.sign(trial.case.tensor(returns) - trial.case.tensor(slot))).flatten()
