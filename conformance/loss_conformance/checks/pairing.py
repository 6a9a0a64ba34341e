"""Pairing: what is given for a row (a target, a reward, a reference) belongs to that row and to no other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.cases.slot import Slot
from loss_conformance.cases.transform import group_size
from loss_conformance.checks.conditions import unless
from loss_conformance.checks.registry import check
from loss_conformance.evaluation import Evaluation
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["pairing"]

SUPERVISORY: Final = ("values", "rewards", "advantages", "logprobs", "logits", "probabilities", "labels", "weights")
FARTHER: Final = 64.0
"""How many tolerances a change has to exceed to count as one."""


@check(
    group="symmetry",
    statement="Exchanging what is given for two rows (their targets, rewards, references) while the rest stays changes L.",
    over=("typical", "full", "off_policy"),
    why="A loss that pairs every prediction with every target trains all of them towards the mean target, and goes down.",
    cause="[N, 1] against [N], which broadcasts to N x N, or a mean over the batch taken before rows meet their targets.",
    fix="Give both one shape, prediction.squeeze(-1) against target, and reduce after they have met.",
    seen_in="benedekrozemberczki/pytorch_geometric_temporal#233",
    applies=lambda trial: (
        _all_with_all(trial)
        or unless("stochastic")(trial)
        or ("its rows are addressed by index" if any(s.role == "pairs" for s in trial.case.slots()) else None)
    ),
    own_batch=True,
)
def pairing(trial: Trial) -> None:
    base = trial.finite_base
    size = group_size(trial.case)
    if len(trial.case.rows) < 2 * size:
        raise NotExercised("there are no two rows to exchange")
    blind = None
    for side in _sides(trial.case):
        blind = blind or _blindness(trial, base, side)
    if blind is None:
        return
    side, additive = blind
    promised = trial.facts.promised("coupled")
    embeds = any(slot.role == "embeddings" for slot in trial.case.slots())
    if trial.foreign and not additive and not promised:
        raise NotExercised("it compares distributions: the order of the rows means nothing to it")
    raise Broken(
        "the same L and the same gradients",
        "an L that depends on what belongs to which row",
        changed=f"{side.words} of two rows exchanged, the rest as it was",
        cause="L is a sum over all combinations of rows: shapes such as [N, 1] and [N] were broadcast."
        if additive
        else "",
        guessed=not promised
        and (not additive or embeds or _two_samples(side.slots) or _on_a_guessed_axis(trial, side.slots)),
        declare="" if promised else "Contract(coupled=True) if rows are compared with all others",
    )


def _two_samples(slots: tuple[Slot, ...]) -> bool:
    """Return whether the names say no more than that there are two: perhaps two samples, no row of which has a partner."""
    return all(slot.name in ("x", "y") for slot in slots)


def _on_a_guessed_axis(trial: Trial, slots: tuple[Slot, ...]) -> bool:
    """Return whether an axis of one entry was given because no other size was taken: perhaps it is of something else."""
    declared = trial.facts.contract.fields
    return trial.foreign and any("1" in slot.shape and slot.name not in declared for slot in slots)


def _all_with_all(trial: Trial) -> str | None:
    """Return why rows may meet all others; a baseline made of the rewards of a batch still meets rewards row by row."""
    by_rewards = trial.facts.contract.family == "policy_gradient" and not trial.facts.promised("coupled")
    return None if by_rewards else unless("coupled")(trial)


@dataclass(frozen=True)
class _Side:
    """What is exchanged between rows: one input, or everything that is said of the rejected rows."""

    words: str
    slots: tuple[Slot, ...]
    first: tuple[int, ...]
    second: tuple[int, ...]
    rejected: bool = False

    def taken(self, case: Case, first: tuple[int, ...], second: tuple[int, ...]) -> Case:
        """Return the case with what stands for the two rows taken from other rows."""
        rows = torch.arange(len(case.rows))
        rows[list(self.first)], rows[list(self.second)] = torch.tensor(first), torch.tensor(second)
        return case.with_tensors({s.key: case.tensor(s).index_select(_axis(s), rows) for s in self.slots})

    def followed(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the gradients as they must be when the loss does not see the exchange."""
        moved = dict(gradients)
        for slot in self.slots:
            if slot.key in moved:
                rows = torch.arange(moved[slot.key].shape[_axis(slot)])
                rows[list(self.first + self.second)] = torch.tensor(self.second + self.first)
                moved[slot.key] = moved[slot.key].index_select(_axis(slot), rows)
        return moved

    def partners(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the gradients of what is not exchanged: of the other inputs, or of the chosen rows."""
        if self.rejected:
            return {s.key: gradients[s.key][0::2] for s in self.slots if s.key in gradients and _axis(s) == 0}
        return {key: gradient for key, gradient in gradients.items() if key not in {s.key for s in self.slots}}


def _axis(slot: Slot) -> int:
    assert slot.row_axis is not None
    return slot.row_axis


def _sides(case: Case) -> list[_Side]:
    size = group_size(case)
    of_rows = tuple(slot for slot in case.slots() if slot.row_axis is not None)
    found = []
    for slot in of_rows:
        given = not slot.trainable and slot.role in SUPERVISORY
        if not given and not slot.kind.startswith("pair."):
            continue
        tensor = case.tensor(slot).movedim(_axis(slot), 0)
        for other in range(size, len(tensor) - size + 1, size):
            if not torch.equal(tensor[:size], tensor[other : other + size]):
                here, there = tuple(range(size)), tuple(range(other, other + size))
                found.append(_Side(slot.key, (slot,), here, there))
                break
    if case.schema.paired and not case.schema.halves:
        found.append(_Side("the rejected answers", of_rows, (1,), (3,), rejected=True))
    return found


def _blindness(trial: Trial, base: Evaluation, side: _Side) -> tuple[_Side, bool] | None:
    """Return the side with whether L is a sum over all combinations, when L does not see its rows exchanged."""
    case = trial.case
    exchanged = trial.evaluate(side.taken(case, side.second, side.first))
    if not _equal(trial, exchanged, base.value, side.followed(base.gradients)):
        return None
    second_twice = trial.evaluate(side.taken(case, side.second, side.second))
    first_twice = trial.evaluate(side.taken(case, side.first, side.first))
    if not _moved(trial, side.partners(base.gradients), side.partners(second_twice.gradients)):
        return None  # what the loss does not read, or adds on its own, meets no row at all
    pairs = [(exchanged, base), (second_twice, first_twice)]
    values = [float(one.value + other.value) for one, other in pairs]
    additive = abs(values[0] - values[1]) <= 4 * trial.value_tolerance(base).bound
    left, right = (
        {key: a + side.partners(other.gradients)[key] for key, a in side.partners(one.gradients).items()}
        for one, other in pairs
    )
    return side, additive and not _moved(trial, left, right, times=4.0)


def _equal(trial: Trial, got: Evaluation, value: Tensor, gradients: Mapping[str, Tensor]) -> bool:
    if not bool((got.value - value).abs() <= trial.value_tolerance(got).bound):
        return False
    return not _moved(trial, gradients, got.gradients, times=1.0)


def _moved(trial: Trial, before: Mapping[str, Tensor], after: Mapping[str, Tensor], times: float = FARTHER) -> bool:
    return any(
        not bool(((after[key] - gradient).abs() <= times * trial.gradient_tolerance(key, gradient).bound).all())
        for key, gradient in before.items()
    )
