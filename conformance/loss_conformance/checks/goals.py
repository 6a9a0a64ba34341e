"""Which way the numbers a loss trains should go, as far as its inputs say: what is wanted, and what is not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.cases.label_values import BINARY
from loss_conformance.cases.slot import Slot
from loss_conformance.evaluation import Evaluation
from loss_conformance.facts.facts import Facts

__all__ = [
    "goals_beside",
    "has_goal",
    "has_labelled_answers",
    "of_labelled_answers",
    "of_targets",
    "pair_slopes",
    "pushes",
    "regressions",
    "targets",
]

RULED: Final = ("supervised", "preference", "policy_gradient", "value", "reward")
"""Families in which what was sampled has one wanted direction."""

MEETS_TARGET: Final = (None, "value", "reward", "supervised")

_OF_PAIRS: Final = {
    "pair.policy_chosen_logps": 1.0,
    "pair.chosen_rewards": 1.0,
    "pair.policy_rejected_logps": -1.0,
    "pair.rejected_rewards": -1.0,
}


def has_goal(facts: Facts, case: Case) -> bool:
    """Return whether a goal is known: by the family, or by what stands beside what is trained."""
    return facts.contract.family in RULED or any(
        slot.kind in _OF_PAIRS or any(find(case, slot) is not None for find in (_labels_of, _target_of, _teacher_of))
        for slot in case.slots()
    )


def goals_beside(case: Case) -> list[Slot]:
    """Return the labels, targets and teachers that stand beside what is trained."""
    found = (_labels_of(case, slot) or _target_of(case, slot) or _teacher_of(case, slot) for slot in case.slots())
    return [slot for slot in found if slot is not None]


def regressions(case: Case) -> list[tuple[Slot, Slot]]:
    """Return the predictions that stand beside the one constant they are to meet, each with that constant."""
    found = ((slot, _target_of(case, slot)) for slot in case.slots())
    return [(slot, target) for slot, target in found if target is not None]


def pushes(facts: Facts, case: Case, base: Evaluation) -> Iterator[tuple[Slot, Tensor]]:
    """Yield the slope of L along the wanted direction, one entry per term: it should never be above 0."""
    for slot in case.slots():
        gradient = base.gradients.get(slot.key)
        if gradient is None or not bool((gradient != 0).any()):
            continue
        labels, target, teacher = _labels_of(case, slot), _target_of(case, slot), _teacher_of(case, slot)
        if slot.kind in _OF_PAIRS:
            yield slot, _OF_PAIRS[slot.kind] * gradient.flatten()
        elif teacher is not None and facts.contract.family in (None, "distillation"):
            towards = case.tensor(teacher).softmax(-1) - case.tensor(slot).softmax(-1)
            yield slot, (gradient * towards).sum(-1).flatten()
        elif labels is not None and facts.contract.family in (None, "supervised"):
            yield slot, _at_labels(case, slot, labels, gradient)
        elif target is not None and facts.contract.family in MEETS_TARGET:
            yield slot, (gradient * torch.sign(case.tensor(target) - case.tensor(slot))).flatten()
        else:
            along = _of_sampled_tokens(case, slot, gradient)
            if along is not None:
                yield from _of_family(facts, case, slot, along)


def pair_slopes(case: Case, base: Evaluation) -> tuple[Tensor, Tensor] | None:
    """Return how L changes with the scores of the chosen and of the rejected answer of every pair; ``None`` without pairs."""
    found: dict[float, Tensor] = {}
    for slot in case.slots():
        gradient = base.gradients.get(slot.key)
        if gradient is None:
            continue
        if slot.kind in _OF_PAIRS and slot.shape == ("B",):
            found[_OF_PAIRS[slot.kind]] = gradient
        elif case.schema.paired and slot.kind in ("model_outputs.next_token_logprobs", "model_outputs.rewards"):
            rows = torch.nan_to_num(gradient).reshape(len(gradient), -1).sum(-1)
            found = {1.0: rows[0::2], -1.0: rows[1::2]}
    return (found[1.0], found[-1.0]) if len(found) == 2 else None


def has_labelled_answers(facts: Facts, case: Case) -> bool:
    """Return whether single answers are labelled desirable or not: rows that are compared in pairs or groups are not."""
    grouped = case.schema.group > 1 or (facts.contract.group_size or 1) > 1 or facts.contract.level == "pair"
    return facts.contract.family == "preference" and not grouped and case.schema.find("batch.labels") is not None


def of_labelled_answers(facts: Facts, case: Case, base: Evaluation) -> Iterator[tuple[Slot, str, Tensor]]:
    """Yield the slope of L along the wanted direction of every answer, the desirable ones and the others apart."""
    labels = case.schema.find("batch.labels")
    if labels is None or not has_labelled_answers(facts, case):
        return
    desirable = case.tensor(labels) != 0
    for slot in case.slots():
        gradient = base.gradients.get(slot.key)
        along = None if gradient is None else _of_sampled_tokens(case, slot, gradient)
        if along is not None and len(along) == len(desirable):
            rows = torch.nan_to_num(along).reshape(len(along), -1).sum(-1)
            yield slot, "desirable answers", rows[desirable]
            yield slot, "undesirable answers", -rows[~desirable]


def targets(facts: Facts, case: Case) -> list[Slot]:
    """Return the targets that stand beside predictions, one each, which may lie on either side of them."""
    found = (_either_side(facts, case, slot) for slot in case.slots())
    return [slot for slot in found if slot is not None]


def of_targets(facts: Facts, case: Case, base: Evaluation) -> Iterator[tuple[Slot, str, Tensor]]:
    """Yield the slope of L towards the target of every prediction, those below it and those above it apart."""
    for slot in case.slots():
        gradient, target = base.gradients.get(slot.key), _either_side(facts, case, slot)
        if gradient is None or target is None or case.tensor(target).shape != gradient.shape:
            continue
        wanted, said = case.tensor(target), case.tensor(slot)
        below, above = said < wanted, said > wanted
        if target.kind == BINARY:  # of a class, scores may go on beyond 0 and 1
            below, above = below & (wanted == 1), above & (wanted == 0)
        yield slot, "predictions below the target", gradient[below]
        yield slot, "predictions above the target", -gradient[above]


def _either_side(facts: Facts, case: Case, slot: Slot) -> Slot | None:
    family = facts.contract.family
    if family == "value" and slot.kind == "model_outputs.values" and facts.contract.level in (None, "token"):
        return case.schema.find("batch.returns")
    if not slot.trainable or slot.kind != "values" or slot.place != "argument" or family not in MEETS_TARGET:
        return None
    constants = [other for other in case.slots() if other.kind in ("values", BINARY) and not other.trainable]
    target = constants[0] if len(constants) == 1 and constants[0].shape == slot.shape else None
    return target if target is not None and (target.kind == BINARY or not target.limited) else None


def _of_family(facts: Facts, case: Case, slot: Slot, along: Tensor) -> Iterator[tuple[Slot, Tensor]]:
    family = facts.contract.family
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


def _labels_of(case: Case, slot: Slot) -> Slot | None:
    """Return the class labels that stand beside these scores, one per entry and aligned with them."""
    if not slot.trainable or slot.role != "logits" or slot.shape.count("V") != 1 or slot.shift != 0:
        return None
    entries = tuple(letter for letter in slot.shape if letter != "V")
    for other in case.slots():
        if other.role == "labels" and other.integer and other.shape == entries and other.shift == 0:
            return other
    return None


def _at_labels(case: Case, slot: Slot, labels: Slot, gradient: Tensor) -> Tensor:
    """Return the slope along the score of the label of every entry that has one."""
    axis = slot.shape.index("V")
    y = case.tensor(labels)
    inside = (y >= 0) & (y < gradient.shape[axis])
    return gradient.gather(axis, y.clamp(0, gradient.shape[axis] - 1).unsqueeze(axis)).squeeze(axis)[inside]


def _teacher_of(case: Case, slot: Slot) -> Slot | None:
    """Return the scores of the teacher that stand beside those of the student."""
    if not slot.trainable or slot.role != "logits" or slot.shape[-1:] != ("V",):
        return None
    for other in case.slots():
        if not other.trainable and other.role == "logits" and "teacher" in other.name and other.shape == slot.shape:
            return other
    return None


def _target_of(case: Case, slot: Slot) -> Slot | None:
    """Return the one constant of the same kind and shape a plain regression is to meet."""
    if not slot.trainable or slot.kind != "values" or slot.place != "argument":
        return None
    constants = [other for other in case.slots() if other.kind == "values" and not other.trainable]
    return constants[0] if len(constants) == 1 and constants[0].shape == slot.shape else None


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
