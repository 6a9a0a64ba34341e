"""Settings whose names say which side they favour: a quantile, a focus on what is hard, a weight of positives."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import torch
from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.cases.label_values import BINARY
from loss_conformance.cases.slot import Slot
from loss_conformance.checks.conditions import unless, unless_rebuilt
from loss_conformance.checks.goals import targets
from loss_conformance.checks.other_settings import evaluated_with
from loss_conformance.checks.registry import check
from loss_conformance.evaluation import Evaluation
from loss_conformance.report.numbers import number
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["focus_is_on_what_is_hard", "level_favours_its_side", "positive_weight_spares_negatives"]

LEVEL: Final = re.compile(r"tau|q|(.*_)?(quantile|expectile)s?(_(level|tau))?", re.IGNORECASE)
FOCUS: Final = re.compile(r"(.*_)?(gamma|focus(ing)?(_param(eter)?)?)", re.IGNORECASE)
FOCAL: Final = re.compile(r"focal", re.IGNORECASE)
OTHERWISE: Final = re.compile(r"iou|inverse|anti|revers", re.IGNORECASE)
"""Losses that call focal what favours the easy: boxes that fit already."""
WEIGHT: Final = re.compile(r"(pos|positive)(_class)?_weight", re.IGNORECASE)
ALPHA: Final = re.compile(r"(focal_)?alpha", re.IGNORECASE)

HIGH, LOW = 0.9, 0.1
AWAY: Final = 1.0
STEP: Final = 3.0
"""By how much scores are moved: from a probability of 1/2 to 0.95."""


@check(
    group="options",
    statement="Near level 1 a quantile or expectile loss charges an answer below its target more than one as far above it; "
    "near level 0 less.",
    over=("typical",),
    why="With the sides exchanged the 0.9-quantile is trained to be the 0.1-quantile, and the loss goes down all the same.",
    cause="prediction - target for target - prediction in front of the branches.",
    fix="error = target - prediction; weight = where(error > 0, level, 1 - level).",
    applies=lambda trial: unless("stochastic", "stateful")(trial) or _unless_named(trial, LEVEL),
)
def level_favours_its_side(trial: Trial) -> None:
    sides, tried = _beside_target(trial), False
    for name, value in _named(trial, LEVEL):
        levels = [{name: _alike(value, at)} for at in (HIGH, LOW)]
        costs = [[evaluated_with(trial, side, level) for side in sides] for level in levels]
        if any(cost is None for pair in costs for cost in pair):
            continue
        tried = True
        high, low = ([float(cost.value) for cost in pair if cost is not None] for pair in costs)
        bound = 4 * max(trial.value_tolerance(cost).bound for pair in costs for cost in pair if cost is not None)
        # A level is one where its complement exchanges the sides; whatever else is called tau or q does not.
        mirrored = all(abs(ours - theirs) <= bound for ours, theirs in zip(high, reversed(low), strict=True))
        if mirrored and high[1] - high[0] > bound:
            raise Broken(
                f"{number(high[0])} below the target and {number(high[1])} above it at {name} = {HIGH:g}, "
                f"{number(low[0])} and {number(low[1])} at {LOW:g}",
                "more below than above at the higher level",
                changed=f"every prediction {AWAY:g} below its target, and {AWAY:g} above it",
                **_as_said(trial, name),
            )
    _require_tried(tried)


@check(
    group="options",
    statement="A focal loss lowers what is well classified more than what is not, compared with the same at focus 0.",
    over=("typical", "full"),
    why="With the factor on the wrong side training looks at what it knows already, and what is wrong is left alone.",
    cause="p ** gamma for (1 - p) ** gamma, p the probability of what is right.",
    fix="(1 - p) ** gamma * -log(p).",
    applies=lambda trial: unless("stochastic", "stateful")(trial) or _unless_named(trial, FOCUS),
)
def focus_is_on_what_is_hard(trial: Trial) -> None:
    said = _name(trial)
    if OTHERWISE.search(said):
        raise NotExercised("what it calls focal may favour what is easy")
    tried = False
    for name, value in _named(trial, FOCUS):
        if not (FOCAL.search(said) or FOCAL.search(name)) or isinstance(value, tuple | list):
            continue
        plain = evaluated_with(trial, trial.case, {name: 0.0})
        if plain is None:
            continue
        focus = value if isinstance(value, float) and value >= 1 else 2.0
        kept, bound = [], 0.0
        for side in (-1.0, 1.0):  # what is easy by its own measure, then what is hard
            moved = _along(trial.case, plain, side * STEP)
            whole, focused = (evaluated_with(trial, moved, {name: at}) for at in (0.0, focus))
            if whole is None or focused is None or not float(whole.value) > 0:
                break
            part = float(focused.value) / float(whole.value)
            kept.append(part)
            bound += sum(trial.value_tolerance(each).bound for each in (whole, focused)) / float(whole.value)
        tried = tried or len(kept) == 2
        # A factor between 0 and 1, and nothing else beside it: parts that have no focus change their share as scores move.
        whole_factor = len(kept) == 2 and kept[1] >= 0 and kept[0] <= 1 + 4 * bound
        if whole_factor and kept[0] - 2 * kept[1] > 4 * bound:
            raise Broken(
                f"{number(kept[0])} of what is well classified is left, {number(kept[1])} of what is not",
                "less of what is well classified",
                changed=f"{name} from 0 to {focus:g}; scores {STEP:g} in the direction that lowers L, and in the other",
                **_as_said(trial, name),
            )
    _require_tried(tried)


@check(
    group="options",
    statement="Raising the weight of positives does not raise the L of a batch that holds negatives alone.",
    over=("typical", "full"),
    why="A weight on both sides balances nothing: it is a learning rate by another name.",
    cause="alpha in front of both terms, or of the wrong one.",
    fix="alpha * y * positive + (1 - alpha) * (1 - y) * negative; pos_weight * y * positive + (1 - y) * negative.",
    seen_in="qubvel/segmentation_models#259",
    applies=lambda trial: (
        unless("stochastic", "stateful")(trial) or _unless_named(trial, WEIGHT, *((ALPHA,) if _is_focal(trial) else ()))
    ),
)
def positive_weight_spares_negatives(trial: Trial) -> None:
    labels = [slot for slot in trial.case.slots() if not slot.trainable and _from_0_to_1(slot)]
    trained = [slot for slot in trial.case.slots() if slot.trainable]
    if len(labels) != 1 or [slot.shape for slot in trained] != [labels[0].shape]:
        raise NotExercised("it holds no scores against one target of 0 or 1 each")
    none = trial.case.with_tensors({labels[0].key: torch.zeros_like(trial.case.tensor(labels[0]))})
    tried = False
    balances = _named(trial, ALPHA) if _is_focal(trial) else []
    for name, value in (*_named(trial, WEIGHT), *balances):
        weights = (0.25, 0.75) if ALPHA.fullmatch(name) else (1.0, 4.0)
        # What is not set yet may be wanted as a tensor.
        kinds = (float, torch.tensor) if value is None or isinstance(value, Tensor) else (float,)
        for kind in kinds:
            lower, higher = (evaluated_with(trial, none, {name: kind(weight)}) for weight in weights)
            if lower is None or higher is None:
                continue
            if _spares_positives(trial, labels[0], name, [kind(weight) for weight in weights]):
                continue
            tried = True
            bound = 4 * (trial.value_tolerance(lower).bound + trial.value_tolerance(higher).bound)
            if float(higher.value - lower.value) > bound:
                raise Broken(
                    f"L rises from {number(lower.value)} to {number(higher.value)}",
                    "no rise",
                    changed=f"{name} from {weights[0]:g} to {weights[1]:g}, every {labels[0].key} 0",
                    **_as_said(trial, name),
                )
            break
    _require_tried(tried)


def _spares_positives(trial: Trial, labels: Slot, name: str, weights: list[Any]) -> bool:
    """Return whether positives alone do not feel the setting: it is a weight of negatives, whatever it is called."""
    every = trial.case.with_tensors({labels.key: torch.ones_like(trial.case.tensor(labels))})
    one, other = (evaluated_with(trial, every, {name: weight}) for weight in weights)
    return one is not None and other is not None and not any(trial.moves(one, other))


def _beside_target(trial: Trial) -> list[Case]:
    """Return every prediction below its target, then as far above it."""
    goals = targets(trial.facts, trial.case)
    goal = goals[0] if len(goals) == 1 else None
    trained = [slot for slot in trial.case.slots() if slot.trainable]
    if goal is None or len(trained) != 1 or trial.case.tensor(trained[0]).shape != trial.case.tensor(goal).shape:
        raise NotExercised("it holds no prediction against one target of the same shape")
    return [trial.case.with_tensors({trained[0].key: trial.case.tensor(goal) + away}) for away in (-AWAY, AWAY)]


def _from_0_to_1(slot: Slot) -> bool:
    shares = slot.role == "probabilities" or (slot.role == "values" and (slot.low, slot.high) == (0.0, 1.0))
    return slot.kind == BINARY or shares


def _along(case: Case, plain: Evaluation, step: float) -> Case:
    """Return the case with what is trained moved along the gradient, and kept within what it may be."""
    moved = {
        slot.key: _kept(slot, case.tensor(slot) + step * plain.gradients[slot.key].sign())
        for slot in _scores(case, plain)
    }
    return case.with_tensors(moved)


def _scores(case: Case, plain: Evaluation) -> Iterator[Slot]:
    for slot in case.slots():
        if slot.key in plain.gradients and slot.trainable and slot.role != "embeddings":
            yield slot


def _kept(slot: Slot, moved: Tensor) -> Tensor:
    if slot.role == "probabilities":
        return moved.clamp(LOW / 2, 1 - LOW / 2)
    return moved.clamp(max=-LOW / 2) if slot.role == "logprobs" else moved


def _require_tried(tried: bool) -> None:
    if not tried:
        raise NotExercised("no setting of that name could be tried")


def _name(trial: Trial) -> str:
    return trial.bench.subject.target.rpartition(".")[2]


def _is_focal(trial: Trial) -> bool:
    """Return whether the loss or a setting beside its weight is called focal: elsewhere alpha is whatever it is."""
    return any(FOCAL.search(name) for name in (_name(trial), *trial.bench.subject.settings))


def _alike(value: Any, level: float) -> Any:
    return type(value)([level] * len(value)) if isinstance(value, tuple | list) else level


def _named(trial: Trial, names: re.Pattern[str]) -> list[tuple[str, Any]]:
    """Return the settings of such a name that are numbers, lists of them, or not set."""
    return [
        (name, value)
        for name, value in trial.bench.subject.settings.items()
        if names.fullmatch(name) and not isinstance(value, bool | str)
    ]


def _unless_named(trial: Trial, *names: re.Pattern[str]) -> str | None:
    return unless_rebuilt(trial) or (
        None if any(_named(trial, name) for name in names) else "it has no setting of that name"
    )


def _as_said(trial: Trial, name: str) -> dict[str, Any]:
    """Return how to report it: what a setting is called is a guess at what it does, unless the contract lists it."""
    if name in trial.facts.contract.options:
        return {}
    return {"guessed": True, "declare": f"Contract(options={{{name!r}: Option(...)}})"}
