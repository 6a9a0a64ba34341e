"""Options: every setting does something, and does it to the gradient."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import torch

from loss_conformance.checks.registry import check
from loss_conformance.evaluation import Evaluation, LossRaised, Malformed
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["option_effect"]

# Clips and clamps only act far off policy.
VARIED: Final = ("off_policy", "typical")


@check(
    group="options",
    statement="Every setting changes the gradient of L on some batch.",
    over=("typical",),
    why="A setting that is read and never reaches the gradient is tuned for weeks without training anything.",
    cause="a value taken with .item() or detach() and added to the loss, a branch never taken, a setting not forwarded.",
    fix="Let the setting scale something that carries gradient; declare Option(inert=True) for one that must not.",
    seen_in="volcengine/verl@3e3d9372a",
    applies=lambda trial: None if _settings(trial) else "it has no settings that can be varied",
)
def option_effect(trial: Trial) -> None:
    if trial.bench.subject.rebuild is None:
        raise NotExercised("an instance cannot be constructed again with other settings")
    settings = _settings(trial)
    silent, without_gradient = [], []
    for name in settings:
        value_moves, gradient_moves = _effects(trial, name, settings)
        if value_moves is None:
            continue
        if not value_moves and not gradient_moves:
            silent.append(name)
        elif not gradient_moves:
            without_gradient.append(name)
    if without_gradient:
        name = without_gradient[0]
        raise Broken(
            f"{name} changes the value of L and no gradient at all",
            f"a gradient that changes with {name}",
            cause=f"{name} only adds a constant: it is detached, or went through .item().",
            guessed=isinstance(trial.bench.subject.settings.get(name), bool),
        )
    if silent:
        name = silent[0]
        raise Broken(
            f"{name} changes neither value nor gradient",
            f"an L that changes with {name}",
            guessed=name not in trial.facts.contract.options,
        )


def _effects(trial: Trial, name: str, settings: dict[str, list[Any]]) -> tuple[bool | None, bool]:
    """Return whether the value and the gradient change with the setting; ``None`` when no two values are legal.

    It is varied alone first, then together with each other setting: some act only beside another one.
    """
    value_moves: bool | None = None
    for beside in _companions(name, settings):
        found = [answers for value in settings[name] if (answers := _answers(trial, {**beside, name: value}))]
        for other in found[1:]:
            pairs = list(zip(found[0], other, strict=True))
            value_moves = bool(value_moves) or any(bool(a.value != b.value) for a, b in pairs)
            if any(_gradients_differ(a, b) for a, b in pairs):
                return True, True
    return value_moves, False


def _companions(name: str, settings: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    yield {}
    for other, values in settings.items():
        if other != name:
            yield from ({other: value} for value in values[1:])


def _answers(trial: Trial, changed: dict[str, Any]) -> list[Evaluation]:
    """Return the evaluations of all ordinary cases with these settings; none when they are not legal together."""
    rebuild = trial.bench.subject.rebuild
    assert rebuild is not None
    try:
        loss = rebuild(changed)
        return [trial.evaluate(case, loss=loss) for case, _ in trial.bench.cases_of(VARIED, 5)]
    except (LossRaised, Malformed, ValueError, TypeError, AssertionError):
        return []


def _gradients_differ(one: Evaluation, other: Evaluation) -> bool:
    pairs = {**one.gradients, **one.parameters}
    others = {**other.gradients, **other.parameters}
    return any(key in others and not torch.equal(pairs[key], others[key]) for key in pairs)


def _settings(trial: Trial) -> dict[str, list[Any]]:
    """Return, for each setting, the value in force and others to try: the declared ones, or its neighbours."""
    declared = trial.facts.contract.options
    found: dict[str, list[Any]] = {}
    for name, value in trial.bench.subject.settings.items():
        option = declared.get(name)
        if option is not None and option.inert:
            continue
        others = [v for v in (option.values if option else ()) if v != value] or list(_neighbours(value))
        if others:
            found[name] = [value, *others]
    return found


def _neighbours(value: Any) -> Iterator[Any]:
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, float):
        yield from ((value * 2, value / 2) if value else (0.1, 0.5))
