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
        None
        if _settings(trial.bench.subject.loss) or _kept(trial.bench.subject.loss)
        else "none of its settings is an argument, or an attribute, of its own"
    ),
    most_cases=1,
)
def settings_are_read(trial: Trial) -> None:
    loss = trial.bench.subject.loss
    read = _read(loss)
    for name in [*_settings(loss), *_kept(loss)] if read is not None else ():
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


def _kept(loss: Any) -> list[str]:
    """Return the attributes that hold a setting taken from a mapping by its name: ``self.x = config.get("x", 0.1)``."""
    found = []
    for node in nodes_of(loss) or []:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and _own_attribute(node) is not None:
            function, given = node.value.func, node.value.args
            taken = isinstance(function, ast.Attribute) and function.attr == "get" and len(given) == 2
            if taken and isinstance(given[1], ast.Constant):
                found.append(_own_attribute(node) or "")
    return found


def _read(loss: Any) -> set[str] | None:
    """Return the names its code reads, those of attributes that only hold an argument for the argument itself.

    A parameter of another method is not the setting of that name: whoever hands it on reads the attribute. ``None`` where
    the code is not there to be looked at, or reads what it does not name.
    """
    nodes = nodes_of(loss)
    if nodes is None:
        return None
    held = dict(pair for node in nodes if isinstance(node, ast.Assign) and (pair := _held(node)) is not None)
    others = held.keys() | {id(node) for method in nodes for node in _of_its_own(method)}
    names = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load) and id(n) not in others}
    attributes = {n.attr for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Load)}
    if READS_UNNAMED & (names | attributes):
        return None
    by_attribute = {n.id for n in nodes if isinstance(n, ast.Name) and held.get(id(n)) in attributes}
    return names | by_attribute | (attributes & set(_kept(loss)))


def _of_its_own(method: ast.AST) -> list[ast.Name]:
    """Return where a method other than the constructor reads its own parameters."""
    if not isinstance(method, ast.FunctionDef) or method.name == "__init__":
        return []
    own = {each.arg for each in (*method.args.posonlyargs, *method.args.args, *method.args.kwonlyargs)}
    if "self" not in own:
        return []
    return [node for node in ast.walk(method) if isinstance(node, ast.Name) and node.id in own]


def _held(node: ast.Assign) -> tuple[int, str] | None:
    """Return, of a statement that is ``self.name = argument`` and nothing more, which argument node it is and the name."""
    attribute = _own_attribute(node)
    return (id(node.value), attribute) if attribute is not None and isinstance(node.value, ast.Name) else None


def _own_attribute(node: ast.Assign) -> str | None:
    """Return the name of the attribute of ``self`` that a statement assigns, and nothing else; else ``None``."""
    target = node.targets[0]
    own = isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self"
    return target.attr if own and len(node.targets) == 1 and isinstance(target, ast.Attribute) else None
