"""Options: every setting does something, and does it to the gradient."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from loss_conformance.checks.registry import check
from loss_conformance.evaluation import Evaluation, LossRaised, Malformed
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["option_effect"]


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
    silent, without_gradient = [], []
    for name, values in _settings(trial).items():
        value_moves, gradient_moves = _effects(trial, name, values)
        if value_moves is None:
            continue
        if not value_moves and not gradient_moves:
            silent.append(name)
        elif not gradient_moves:
            without_gradient.append(name)
    declared = trial.facts.contract.options
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
            guessed=name not in declared,
        )


def _effects(trial: Trial, name: str, values: list[Any]) -> tuple[bool | None, bool]:
    """Return whether the value and the gradient change with the setting; ``None`` when no other value is legal."""
    value_moves: bool | None = None
    gradient_moves = False
    for other in values:
        for case, base in trial.bench.ordinary_cases():
            try:
                assert trial.bench.subject.rebuild is not None
                got = trial.evaluate(case, loss=trial.bench.subject.rebuild({name: other}))
            except (LossRaised, Malformed, ValueError, TypeError, AssertionError):
                break
            value_moves = bool(value_moves) or bool(got.value != base.value)
            gradient_moves = gradient_moves or _gradients_differ(got, base)
            if gradient_moves:
                return True, True
    return value_moves, gradient_moves


def _gradients_differ(one: Evaluation, other: Evaluation) -> bool:
    pairs = {**one.gradients, **one.parameters}
    others = {**other.gradients, **other.parameters}
    return any(key in others and not torch.equal(pairs[key], others[key]) for key in pairs)


def _settings(trial: Trial) -> dict[str, list[Any]]:
    """Return setting name to other values worth trying: declared ones first, then neighbours of the value in force."""
    declared = trial.facts.contract.options
    found: dict[str, list[Any]] = {}
    for name, value in trial.bench.subject.settings.items():
        option = declared.get(name)
        if option is not None and option.inert:
            continue
        others = [v for v in (option.values if option else ()) if v != value] or list(_neighbours(value))
        if others:
            found[name] = others
    return found


def _neighbours(value: Any) -> Iterator[Any]:
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, float):
        yield from ((value * 2, value / 2) if value else (0.1, 0.5))
