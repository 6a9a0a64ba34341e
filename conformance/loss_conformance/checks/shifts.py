"""Shifts: a constant added where only differences count changes nothing."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.cases.slot import Slot
from loss_conformance.checks.other_settings import evaluated_with
from loss_conformance.checks.registry import check
from loss_conformance.report.numbers import number
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["logit_shift", "pair_shift", "reward_pairs"]

SIZES: Final = (1.0, 2.0, -1.0)
"""How often the shift is applied: a response in these proportions is linear, that of a log-probability never taken."""

FAR: Final = 64.0
"""A shift that outgrows every reward of an ordinary batch."""

SOFTMAX_FAMILIES: Final = ("supervised", "preference", "policy_gradient", "distillation")
SURE_FAMILIES: Final = ("preference", "policy_gradient")


@check(
    group="symmetry",
    statement="Adding a constant to all logits of a position leaves L unchanged.",
    over=("typical", "full"),
    why="Probabilities see differences of logits alone; logits taken for log-probabilities train, and mean nothing.",
    cause="logits gathered at the token without log_softmax, or log_softmax on one side of a divergence only.",
    fix="logits.log_softmax(-1) first, then gather(-1, ids), then the formula.",
    seen_in="",
    applies=lambda trial: (
        None
        if trial.facts.contract.family in SOFTMAX_FAMILIES
        else f"family = {trial.facts.contract.family!r} need not go through a softmax"
    ),
    own_batch=True,
)
def logit_shift(trial: Trial) -> None:
    trial.compare_in_float32()
    base = trial.finite_base
    shifted = [slot for slot in trial.case.slots() if slot.kind in ("model_outputs.logits", "batch.teacher_logits")]
    shifted = [slot for slot in shifted if slot.shape[-1] == "V" and trial.case.tensor(slot).shape[-1] > 1]
    if not shifted:
        raise NotExercised("it reads no logits over a vocabulary")
    for slot in shifted:
        moves = [float(trial.evaluate(_shifted(trial.case, slot, size)).value - base.value) for size in SIZES]
        tolerance = trial.value_tolerance(base)
        if all(abs(move) <= tolerance.bound * 4 for move in moves):
            continue
        linear = _proportional(moves, SIZES, tolerance.bound)
        if trial.foreign and not linear:
            raise NotExercised("a loss of this name may work on the logits themselves, through a sigmoid or a margin")
        alone = _one_entry_alone(trial.case, slot, base.gradients.get(slot.key))
        declared = trial.facts.origin.get("family") == "declared"
        if not alone and _penalised(trial, slot, SIZES[0]):
            raise NotExercised(
                "with one of its coefficients at 0 it is unmoved: that is a penalty on the logits themselves"
            )
        sure = linear or alone or (trial.facts.contract.family in SURE_FAMILIES and declared)
        raise Broken(
            f"L moves by {number(moves[0])}, by {number(moves[1])} for twice as much",
            "no change",
            changed=f"{slot.key} shifted, by another constant at each position",
            tolerance=tolerance,
            cause="one logit of each position is taken as it is: gathered without log_softmax." if alone else "",
            guessed=trial.foreign or not sure,
            declare="Contract(exempt={'logit_shift': ...}) where logits themselves are meant" if not sure else "",
        )


@check(
    group="symmetry",
    statement="Adding a constant to both rewards of a pair leaves L unchanged, or raises it whichever its sign.",
    over=("typical", "full"),
    why="Preferences fix rewards up to a constant; a loss that always falls as both rise rewards inflation, not order.",
    cause="a term that reads the chosen reward alone, rows paired with others than their neighbour, a centring term "
    "without its square.",
    fix="Compare within the pair, softplus(rejected - chosen); centre with (chosen + rejected) ** 2.",
    seen_in="",
    applies=lambda trial: (
        None
        if trial.facts.contract.family == "reward" and reward_pairs(trial.case)
        else "it compares no rewards in pairs"
    ),
    own_batch=True,
)
def pair_shift(trial: Trial) -> None:
    trial.compare_in_float32()
    base = trial.finite_base
    slots = reward_pairs(trial.case)
    rows = len(trial.case.tensor(slots[0]))
    # Both rows of an interleaved pair, or one entry of each of two inputs, get the same constant.
    steps = torch.arange(rows) // (2 if len(slots) == 1 else 1) % 3 + 1
    bound = 4 * trial.value_tolerance(base).bound

    def moved(size: float) -> float:
        changed = {s.key: trial.case.tensor(s) + size * steps.to(trial.case.tensor(s)) for s in slots}
        return float(trial.evaluate(trial.case.with_tensors(changed)).value - base.value)

    near = moved(1.0)
    if abs(near) <= bound:
        return
    up, down = moved(FAR), moved(-FAR)
    if min(up, down) >= -bound:
        return  # centred on purpose
    raise Broken(
        f"L moves by {number(near)}; by {number(up)} and {number(down)} for {FAR:g} times as much up and down",
        "no change, or a rise on both sides",
        changed="a constant added to both rewards of each pair, another for each pair",
        tolerance=trial.value_tolerance(base),
        guessed=trial.foreign,
    )


def _shifted(case: Case, slot: Slot, size: float) -> Case:
    tensor = case.tensor(slot)
    positions = tensor[..., :1].numel()
    step = (torch.arange(positions) % 4 + 1).to(tensor).reshape(tensor[..., :1].shape) / 4
    return case.with_tensors({slot.key: tensor + size * step})


def _penalised(trial: Trial, slot: Slot, size: float) -> bool:
    """Return whether some number it is set by is the weight of what sees the shift: at 0 it trains on, and does not see it."""
    if trial.bench.subject.rebuild is None:
        return False
    shifted = _shifted(trial.case, slot, size)
    for name, value in trial.bench.subject.settings.items():
        if not isinstance(value, float) or not value:
            continue
        base, got = (evaluated_with(trial, case, {name: 0.0}) for case in (trial.case, shifted))
        if base is None or got is None:
            continue
        trains = any(bool((gradient != 0).any()) for gradient in base.gradients.values())
        if trains and float((got.value - base.value).abs()) <= 4 * trial.value_tolerance(base).bound:
            return True
    return False


def _proportional(moves: list[float], sizes: tuple[float, ...], bound: float) -> bool:
    slopes = [move / size for move, size in zip(moves, sizes, strict=True)]
    return max(slopes) - min(slopes) <= 8 * bound and max(map(abs, slopes)) > 64 * bound


def _one_entry_alone(case: Case, slot: Slot, gradient: Tensor | None) -> bool:
    """Return whether every position gets gradient at one entry at most, which no softmax over more does."""
    if gradient is None or not slot.trainable:
        return False
    entries = (gradient != 0).sum(-1)
    return bool((entries == 1).any()) and not bool((entries > 1).any())


def reward_pairs(case: Case) -> list[Slot]:
    filled = {slot.kind: slot for slot in case.slots()}
    if case.schema.paired and "model_outputs.rewards" in filled:
        return [filled["model_outputs.rewards"]]
    both = [filled.get("pair.chosen_rewards"), filled.get("pair.rejected_rewards")]
    return [slot for slot in both if slot is not None] if all(both) else []
