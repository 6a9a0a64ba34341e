"""Far from the target: what is very wrong is still corrected."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.cases.label_values import BINARY
from loss_conformance.cases.slot import Slot
from loss_conformance.checks.conditions import declared_only, unless
from loss_conformance.checks.goals import targets
from loss_conformance.checks.registry import check
from loss_conformance.report.numbers import number
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["large_errors_count"]

ERRORS: Final = tuple(2.0**power for power in range(-3, 6))
"""How far from its target a prediction is put, from 1/8 to 32."""
HALVINGS: Final = 12
CLIFF: Final = 0.25
"""Share of the largest slope that just before the edge is no fading out: Tukey's biweight fades, a clamp does not."""
ELSEWHERE: Final = 3.0
"""Both moved by this much: what clamps its predictions, not its errors, has its edge elsewhere then."""


@check(
    group="gradient_flow",
    statement="A prediction very far from its target still gets a gradient: the pull does not break off with the error.",
    over=("full",),
    why="Clipping an error before it is squared leaves out the very predictions that are most wrong: they never come back.",
    cause="(prediction - target).clamp(-1, 1) ** 2, or a cap on the squared error, for Huber's loss.",
    fix="F.smooth_l1_loss, or clip the gradient; declare Contract(upper_bound=...) where far ones are left out on purpose.",
    seen_in="devsisters/DQN-tensorflow#16",
    applies=lambda trial: unless("stochastic", "stateful", "surrogate_gradient")(trial) or _no_target(trial),
)
def large_errors_count(trial: Trial) -> None:
    model, target = _pair(trial)
    slopes = torch.stack([_slope(trial, model, target, error) for error in ERRORS])
    felt = slopes.amax(0) > 0
    # Entries a mask leaves out are never felt, and one side alone may be left out on purpose.
    if not bool(felt.any()) or not bool(torch.isfinite(slopes).all()):
        raise NotExercised("no prediction gets a gradient")
    last = [bool((of_error[felt] > 0).any()) for of_error in slopes]
    if last[-1] or not last[0]:
        return
    inside, outside = _edge(trial, model, target, last.index(False))
    before = _slope(trial, model, target, inside)[felt]
    if not bool((before > CLIFF * slopes.amax(0)[felt]).all()):
        raise NotExercised("its pull fades out, as that of a robust loss does")
    moved_in, moved_out = (_slope(trial, model, target, e, ELSEWHERE)[felt] for e in (0.9 * inside, 1.5 * outside))
    if bool((moved_out > 0).any()) or not bool((moved_in > 0).any()):
        raise NotExercised("it depends on where the target lies, so it is no error that breaks off")
    settings = trial.bench.subject.settings.values()
    numbers = [float(value) for value in settings if isinstance(value, int | float) and not isinstance(value, bool)]
    if any(abs(edge - abs(value)) <= 1e-2 * edge for value in numbers for edge in (inside, inside**2, inside**2 / 2)):
        raise NotExercised("one of its settings says how far a prediction counts")
    raise Broken(
        f"no gradient beyond an error of {number(inside)}, and {number(before.max())} just before",
        "a pull from afar",
        changed=f"every {model.key} put at up to {ERRORS[-1]:g} from its {target.key}",
        **({"guessed": True} if trial.foreign else declared_only(trial, "family")),
    )


def _no_target(trial: Trial) -> str | None:
    if trial.facts.contract.upper_bound is not None:
        return f"upper_bound = {trial.facts.contract.upper_bound:g}"
    if trial.facts.contract.coupled:
        return "coupled = True"
    plain = [slot for slot in targets(trial.facts, trial.case) if slot.kind != BINARY]
    return None if plain else "it holds no prediction against one target of the same shape"


def _pair(trial: Trial) -> tuple[Slot, Slot]:
    """Return the prediction and its target."""
    target = targets(trial.facts, trial.case)[0]
    models = [slot for slot in trial.case.slots() if slot.trainable and slot.key in trial.finite_base.gradients]
    if len(models) != 1 or trial.case.tensor(models[0]).shape != trial.case.tensor(target).shape:
        raise NotExercised("it trains more than one prediction")
    return models[0], target


def _slope(trial: Trial, model: Slot, target: Slot, error: float, elsewhere: float = 0.0) -> Tensor:
    """Return how strongly every prediction is pulled, at this distance from its target, every other one above it."""
    wanted = trial.case.tensor(target) + elsewhere
    side = 1 - 2 * (torch.arange(wanted.numel()).reshape(wanted.shape) % 2).to(wanted)
    said = wanted + error * side
    case: Case = trial.case.with_tensors({model.key: said, target.key: wanted})
    old = case.schema.find("batch.values")
    if old is not None and old.key in case.tensors and case.tensor(old).shape == said.shape:
        case = case.with_tensors({old.key: said.clone()})  # a clip around the old value is not in the way there
    return trial.evaluate(case).gradients[model.key].abs().to(torch.float64)


def _edge(trial: Trial, model: Slot, target: Slot, first: int) -> tuple[float, float]:
    """Return the largest error found with a pull, and the smallest without, next to it."""
    inside, outside = ERRORS[first - 1], ERRORS[first]
    for _ in range(HALVINGS):
        middle = (inside + outside) / 2
        if bool((_slope(trial, model, target, middle) > 0).any()):
            inside = middle
        else:
            outside = middle
    return inside, outside
