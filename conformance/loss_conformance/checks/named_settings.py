"""Settings whose names say what they are for: smoothing, centring, the temperature of a teacher."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import torch

from loss_conformance.cases.transform import other_content
from loss_conformance.checks.conditions import declared_only, unless, unless_rebuilt
from loss_conformance.checks.minimum import TEMPERATURE
from loss_conformance.checks.other_settings import rebuilt
from loss_conformance.checks.perfect import perfect, prediction
from loss_conformance.checks.registry import Severity, check
from loss_conformance.checks.shifts import reward_pairs
from loss_conformance.evaluation import LossRaised, Malformed, parameters_of
from loss_conformance.report.numbers import number
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["centring_feels_shift", "hard_labels_stay_cold", "smoothing_switches_off"]

SMOOTHING: Final = re.compile(r"(.*_)?smoothing(_.*)?", re.IGNORECASE)
CENTRE: Final = re.compile(r"(.*_)?cent(er|re)(ing)?(_.*)?", re.IGNORECASE)
NOTABLE: Final = 0.5
"""Share of an ordinary loss; what is left of a right answer at the weaker certainty is far below rounding."""
LINEAR: Final = 0.1
SHIFT: Final = 4.0
HOTTER: Final = 2.0


@check(
    group="options",
    statement="With its smoothing at 0, a loss of labels does not rise as the prediction is right and ever surer.",
    over=("typical", "full"),
    why="A part left in at smoothing 0 is smoothing without end: the loss falls, and no prediction may become sure.",
    cause="(1 - smoothing) * nll + uniform, the uniform part not weighted.",
    fix="(1 - smoothing) * nll + smoothing * uniform.",
    seen_in="TimDettmers/ConvE#55",
    applies=lambda trial: unless("stochastic", "stateful")(trial) or _unless_named(trial, SMOOTHING),
)
def smoothing_switches_off(trial: Trial) -> None:
    if trial.facts.contract.family not in (None, "supervised") or parameters_of(trial.loss):
        raise NotExercised("nothing says when its prediction is right")
    model, goal = prediction(trial.case)
    if model.role != "logits":
        raise NotExercised(f"{model.key} are no scores, which may be ever surer")
    off = rebuilt(trial, dict.fromkeys(_named(trial, SMOOTHING), 0.0))
    weak, strong = (trial.evaluate(case, loss=off).value for case in perfect(trial.case, model, goal))
    usual = trial.evaluate(trial.case, loss=off)
    if not bool(torch.isfinite(strong)) or float(strong - weak) <= NOTABLE * float(usual.value.abs()):
        return
    if abs(float(strong - 2 * weak)) > LINEAR * float(strong):
        raise NotExercised("it does not grow with the scores but with their squares, as a penalty on their size does")
    raise Broken(
        f"{number(weak)}, and {number(strong)} at twice the certainty",
        "towards 0",
        changed=f"smoothing 0, {model.key} right about every {goal.key}, and ever surer",
        **declared_only(trial, "family"),
    )


@check(
    group="options",
    statement="With a coefficient that centres rewards, moving all of them up together changes L.",
    over=("typical", "full"),
    why="A centring term blind to where the rewards lie lets them drift, and works against their order instead.",
    cause="the difference of the two rewards squared instead of their sum.",
    fix="center_coefficient * (chosen + rejected) ** 2.",
    seen_in="huggingface/trl#1932",
    applies=lambda trial: unless("stochastic", "stateful")(trial) or _unless_named(trial, CENTRE),
)
def centring_feels_shift(trial: Trial) -> None:
    slots = reward_pairs(trial.case)
    if trial.facts.contract.family != "reward" or not slots:
        raise NotExercised("it compares no rewards in pairs")
    name = _named(trial, CENTRE)[0]
    value = trial.bench.subject.settings[name]
    weight = value if isinstance(value, float) and value else 0.5
    centred, free = rebuilt(trial, {name: weight}), rebuilt(trial, {name: 0.0})
    moved = trial.case.with_tensors({slot.key: trial.case.tensor(slot) + SHIFT for slot in slots})
    here, there = trial.evaluate(trial.case, loss=centred), trial.evaluate(moved, loss=centred)
    if not any(trial.moves(here, trial.evaluate(trial.case, loss=free))):
        raise NotExercised(f"{name} changes nothing, which option_effect says")
    bound = trial.value_tolerance(here).bound + trial.value_tolerance(there).bound
    if not abs(float(there.value - here.value)) <= 4 * bound:
        return
    raise Broken(
        f"L stays at {number(here.value)}",
        f"another L: {name} = {weight:g} is to hold the rewards around 0",
        changed=f"every reward raised by {SHIFT:g}",
        guessed=trial.facts.origin.get("family") != "declared",
    )


@check(
    group="options",
    statement="Where the teacher is weighed with nothing, the temperature of distillation changes nothing.",
    over=("typical", "full"),
    severity=Severity.ADVICE,
    why="Softened logits in the cross-entropy of the labels train a student that is sharper, or flatter, than was asked.",
    cause="the logits divided by the temperature once, for both parts.",
    fix="soft = kl(student / T, teacher / T) * T**2; hard = cross_entropy(student, labels).",
    applies=lambda trial: unless("stochastic", "stateful")(trial) or _unless_named(trial, TEMPERATURE),
)
def hard_labels_stay_cold(trial: Trial) -> None:
    heat = _named(trial, TEMPERATURE)
    teachers = [slot for slot in trial.case.slots() if "teacher" in slot.name.lower() and slot.movable]
    if not teachers or len(heat) != 1:
        raise NotExercised("it has no teacher, or more than one temperature")
    value = trial.bench.subject.settings[heat[0]]
    if not isinstance(value, float) or value <= 0:
        raise NotExercised("its temperature is not set")
    other = trial.case.with_tensors({slot.key: other_content(slot, trial.case.tensor(slot)) for slot in teachers})
    if not any(trial.moves(trial.finite_base, trial.evaluate(other))):
        raise NotExercised("its teacher has nothing to say here: a vocabulary of one entry, for instance")
    for name, end in _ends(trial, heat[0]):
        try:
            hard, hotter = (rebuilt(trial, {name: end, **more}) for more in ({}, {heat[0]: HOTTER * value}))
            base = trial.evaluate(trial.case, loss=hard)
            trained = any(bool((gradient != 0).any()) for gradient in base.gradients.values())
            if not trained or any(trial.moves(base, trial.evaluate(other, loss=hard))):
                continue
            got = trial.evaluate(trial.case, loss=hotter)
        except (LossRaised, Malformed, NotExercised):
            continue
        if trial.moves(base, got)[0]:
            raise Broken(
                f"L goes from {number(base.value)} to {number(got.value)}",
                "no change",
                changed=f"{name}={end:g}, which leaves the teacher out, and {heat[0]} from {value:g} to {HOTTER * value:g}",
            )
        return
    raise NotExercised("no setting takes the teacher out")


def _ends(trial: Trial, heat: str) -> Iterator[tuple[str, float]]:
    """Yield the settings that may weigh the teacher against labels, at either end."""
    for name, value in trial.bench.subject.settings.items():
        if name != heat and isinstance(value, float) and 0 <= value <= 1:
            yield name, 0.0
            yield name, 1.0


def _unless_named(trial: Trial, names: re.Pattern[str]) -> str | None:
    return unless_rebuilt(trial) or (None if _named(trial, names) else "it has no setting of that name")


def _named(trial: Trial, names: re.Pattern[str]) -> list[str]:
    settings = trial.bench.subject.settings
    return [
        name
        for name, value in settings.items()
        if names.fullmatch(name) and (value is None or (isinstance(value, int | float) and not isinstance(value, bool)))
    ]
