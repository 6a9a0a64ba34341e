"""Whether a point is a minimum along its own gradient, and which setting explains that it is none."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import torch
from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.cases.slot import Slot
from loss_conformance.checks.other_settings import rebuilt_with_each
from loss_conformance.evaluation import Evaluation, LossRaised, Malformed
from loss_conformance.trial import NotExercised, Trial

__all__ = ["TEMPERATURE", "fall", "set_aside", "variants"]

STEPS: Final = (0.5, 0.1, 0.02)
"""How far the model is moved down the gradient, in logits or values, to see whether L falls."""

TEMPERATURE: Final = re.compile(r"(.*_)?(temperature|temp|tau|t)(_.*)?", re.IGNORECASE)
"""Names of settings that divide logits."""


def fall(trial: Trial, case: Case, model: Slot, loss: Any) -> tuple[Evaluation, Tensor, Tensor, float] | None:
    """Return (at rest, gradient there, lower value, step) when some step down the gradient lowers L, else ``None``."""
    try:
        here = trial.evaluate(case, loss=loss)
    except LossRaised as raised:
        raise NotExercised(f"it raises where the model equals what it should become: {raised}") from None
    gradient = here.gradients.get(model.key)
    if gradient is None or not bool(torch.isfinite(gradient).all()) or not bool(torch.isfinite(here.value)):
        raise NotExercised("it is not finite where the model equals what it should become, which other checks say")
    if not bool((gradient.abs() > trial.gradient_tolerance(model.key, gradient).bound).any()):
        return None
    for step in STEPS:
        moved = case.tensor(model) - step * gradient / gradient.abs().amax()
        lower = trial.evaluate(case.with_tensors({model.key: moved}), loss=loss).value
        if float(lower) < float(here.value) - trial.value_tolerance(here).bound:
            return here, gradient, lower, step
    return None  # a kink: any of its slopes is a gradient


def set_aside(trial: Trial, case: Case, model: Slot) -> bool:
    """Return whether the loss rests with some other setting, or does not follow the teacher's numbers one by one."""
    for slot in case.slots():
        if slot.movable and not slot.trainable:
            scaled = case.with_tensors({slot.key: case.tensor(slot) * (1.0 + 2.0**-12)})
            if bool(trial.evaluate(scaled).value == trial.evaluate(case).value):
                return True  # labels taken by argmax
    others = [name for name in trial.bench.subject.settings if not TEMPERATURE.fullmatch(name)]
    for _, _, loss in variants(trial, others):
        try:
            moving = trial.evaluate(trial.case, loss=loss).gradients[model.key]
            # With a coefficient of 0 any loss rests, everywhere.
            if bool((moving != 0).any()) and fall(trial, case, model, loss) is None:
                return True
        except (LossRaised, Malformed, NotExercised):
            continue
    heat = [name for name in trial.bench.subject.settings if TEMPERATURE.fullmatch(name)]
    return len(heat) > 1


def variants(trial: Trial, names: list[str]) -> Iterator[tuple[str, Any, Any]]:
    """Yield (name, value, loss) for other values of the numeric settings ``names``: declared ones, else neighbours."""
    for name in names if trial.bench.subject.rebuild is not None else ():
        value = trial.bench.subject.settings[name]
        option = trial.facts.contract.options.get(name)
        others = [v for v in (option.values if option else ()) if v != value]
        if not others and isinstance(value, int | float) and not isinstance(value, bool):
            others = [value * 2, value / 2, 0, 1] if isinstance(value, float) else [value * 64, value + 1]
            others = [v for v in others if v != value and (v or not TEMPERATURE.fullmatch(name))]
        yield from ((name, other, loss) for other, loss in rebuilt_with_each(trial, name, others))
