"""Unread settings: what the code of a loss is given and never looks at."""

from __future__ import annotations

import ast
import inspect
from inspect import Parameter
from typing import Any, Final

from loss_conformance.checks.registry import Severity, check
from loss_conformance.subject.source_code import nodes_of
from loss_conformance.trial import Broken, Trial

__all__ = ["settings_are_read"]

READS_UNNAMED: Final = {"locals", "vars", "getattr", "__dict__", "asdict"}
"""Names by which code reads what it does not name."""


@check(
    group="options",
    statement="Every setting is read somewhere in the code of the loss.",
    over=("typical",),
    severity=Severity.ADVICE,
    why="A setting that is accepted and never read is tuned without effect, and its default is not what runs.",
    cause="a constant, or another name, stands where the setting should.",
    fix="Use it, or take it out of the signature.",
    seen_in="RLinf/RLinf#316",
    applies=lambda trial: (
        None if _settings(trial.bench.subject.loss) else "none of its settings is an argument of its own"
    ),
    most_cases=1,
)
def settings_are_read(trial: Trial) -> None:
    loss = trial.bench.subject.loss
    read = _read(loss)
    for name in _settings(loss) if read is not None else ():
        if name not in (read or ()):
            raise Broken(
                f"{name} is never read", "a setting that is used", cause=f"nothing in its code looks at {name}."
            )


def _settings(loss: Any) -> list[str]:
    """Return the arguments that are numbers, words or yes or no by default."""
    made_by = loss if inspect.isfunction(loss) else type(loss).__init__
    if not inspect.isfunction(made_by):
        return []
    parameters = inspect.signature(made_by).parameters.values()
    named = [p for p in parameters if p.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)]
    return [p.name for p in named if isinstance(p.default, bool | int | float | str) and not p.name.startswith("_")]


def _read(loss: Any) -> set[str] | None:
    """Return the names its code reads, those of attributes that only hold an argument for the argument itself.

    ``None`` where the code is not there to be looked at, or reads what it does not name.
    """
    nodes = nodes_of(loss)
    if nodes is None:
        return None
    held = dict(pair for node in nodes if isinstance(node, ast.Assign) and (pair := _held(node)) is not None)
    names = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load) and id(n) not in held}
    attributes = {n.attr for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Load)}
    if READS_UNNAMED & (names | attributes):
        return None
    by_attribute = {n.id for n in nodes if isinstance(n, ast.Name) and held.get(id(n)) in attributes}
    return names | by_attribute


def _held(node: ast.Assign) -> tuple[int, str] | None:
    """Return, of a statement that is ``self.name = argument`` and nothing more, which argument node it is and the name."""
    target = node.targets[0]
    if len(node.targets) > 1 or not (isinstance(node.value, ast.Name) and isinstance(target, ast.Attribute)):
        return None
    own = isinstance(target.value, ast.Name) and target.value.id == "self"
    return (id(node.value), target.attr) if own else None
