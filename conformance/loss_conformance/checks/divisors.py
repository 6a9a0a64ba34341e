"""Divisors: what a mean divides by, and that it divides once."""

from __future__ import annotations

from typing import Any, Final

import torch

from loss_conformance.cases.transform import group_size, take_rows, with_counts
from loss_conformance.checks.conditions import declared_only, unless
from loss_conformance.checks.registry import check
from loss_conformance.report.numbers import number
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["common_divisor", "divisor"]

COUNT_OF: Final = {
    "token": "batch.global_valid_toks",
    "sequence": "batch.global_valid_seqs",
    "pair": "batch.global_valid_seqs",
}


@check(
    group="reduction",
    statement="A global mean divides by the count of its terms: tokens by global_valid_toks, rows and pairs by global_valid_seqs.",
    over=("typical", "full"),
    why="Divided by the other count, the scale of the gradient follows the length of the answers instead of their number.",
    cause="the wrong one of the two counts, or a part of the loss divided by each.",
    fix="Level token: divide by global_valid_toks. Level sequence: by global_valid_seqs. Level pair: by half of it.",
    seen_in="OpenRLHF/OpenRLHF@1b23ecf0",
    applies=lambda trial: unless("coupled")(trial) or _unless_global(trial),
    own_batch=True,
)
def divisor(trial: Trial) -> None:
    trial.compare_in_float32()
    # Large enough that no clamp(min=1) acts, even on pairs.
    case = with_counts(trial.case)
    case = case.with_tensors({s.key: case.tensor(s) + 4.0 for s in case.slots() if s.role == "count"})
    base = trial.evaluate(case)
    if not bool(torch.isfinite(base.value)):
        raise NotExercised("the loss is not finite on this case, which is the finite checks' to say")
    own = COUNT_OF[str(trial.facts.contract.level)]
    # Pairs are often joined by a likelihood term, which is a mean over tokens.
    joined = own != COUNT_OF["token"] and set(COUNT_OF.values()) <= {slot.kind for slot in case.slots()}
    for slot in case.slots():
        if slot.kind not in COUNT_OF.values():
            continue
        doubled = trial.evaluate(case.with_tensors({slot.key: 2 * case.tensor(slot)}))
        share = 0.5 if slot.kind == own else 1.0
        how: dict[str, Any] = {"changed": f"{slot.name} doubled", **declared_only(trial, "level", doubtful=joined)}
        trial.require_value(doubled, share * base.value, **how)
        halved = {key: share * gradient for key, gradient in base.gradients.items()}
        trial.require_gradients(doubled.gradients, halved, **how)


@check(
    group="reduction",
    statement="Taking a row (group) out multiplies the gradients of all others by one and the same number.",
    over=("full", "typical", "holes"),
    why="A mean has one divisor; where tokens of one row change their shares, they are averaged along another axis.",
    cause="a mean over the rows of each position, sum(0) / mask.sum(0), where one over the tokens of each row is meant.",
    fix="Sum over dim=1 first, then over rows; divide once, by the count of what the contract calls a term.",
    seen_in="",
    applies=lambda trial: unless("coupled")(trial) or _unless_one_level(trial),
    own_batch=True,
)
def common_divisor(trial: Trial) -> None:
    trial.compare_in_float32()
    base = trial.finite_base
    size = group_size(trial.case)
    rows = len(trial.case.rows)
    if rows < 3 * size or any(slot.role == "pairs" for slot in trial.case.slots()):
        raise NotExercised("fewer than two rows would be left")
    left = torch.arange(rows - size)
    got = trial.evaluate(take_rows(trial.case, left))
    for slot in trial.case.slots():
        if slot.key not in base.gradients or slot.row_axis is None:
            continue
        before = base.gradients[slot.key].index_select(slot.row_axis, left).flatten()
        after = got.gradients[slot.key].flatten()
        if not bool((before != 0).any()):
            continue
        largest = int(before.abs().argmax())
        factor = after[largest] / before[largest]
        apart = (after - factor * before).abs()
        tolerance = trial.gradient_tolerance(slot.key, torch.stack((before, after)))
        if not bool((apart <= tolerance.bound * (1.0 + float(factor.abs()))).all()):
            worst = int(apart.argmax())
            raise Broken(
                f"one gradient of {slot.key} is multiplied by {number(factor)}, another goes from {number(before[worst])} "
                f"to {number(after[worst])}",
                f"{number(factor * before[worst])}",
                changed=f"the last {'row' if size == 1 else f'{size} rows'} taken out",
                tolerance=tolerance,
                **declared_only(trial, "level"),
            )


def _unless_global(trial: Trial) -> str | None:
    facts = trial.facts
    if facts.contract.family == "composite":
        return "family = 'composite': its parts may be of different levels"
    if facts.contract.level not in COUNT_OF or not facts.promised("level"):
        return "no level is declared that is counted globally"
    if facts.contract.normalizer != "global" or not facts.promised("normalizer"):
        return "normalizer = 'global' is not declared"
    return None


def _unless_one_level(trial: Trial) -> str | None:
    if trial.facts.contract.normalizer == "global":
        return "the global counts it divides by do not change with its rows"
    if trial.facts.contract.family == "composite":
        return "family = 'composite': its parts may be of different levels"
    if trial.facts.contract.level == "pair" or trial.facts.contract.family == "preference":
        return "preferences are often joined by a likelihood term, which is a mean over tokens"
    return None if trial.facts.promised("level") else "level is not declared"
