"""The source of a loss, as far as it is its own: what its code names, and the words it compares its settings with."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from functools import cache
from typing import Any, Final

from torch import nn

from loss_reference.interface import LossFunction

__all__ = ["compared_words", "nodes_of"]

_NOT_ITS_OWN: Final = (object, nn.Module, LossFunction)
"""Classes whose code says nothing about the loss."""


def nodes_of(loss: Any) -> list[ast.AST] | None:
    """Return every node of the source of a function, or of the classes of an object; ``None`` where there is none to read."""
    parts = (loss,) if inspect.isfunction(loss) else type(loss).__mro__
    try:
        return [node for part in parts if part not in _NOT_ITS_OWN for node in ast.walk(_tree(part))]
    except (OSError, TypeError, SyntaxError):
        return None


def compared_words(loss: Any, setting: str) -> list[str]:
    """Return the words its code compares a setting with, in the order they stand there: ``mode == "sum"``."""
    nodes = nodes_of(loss) or []
    found = [
        word for node in nodes if isinstance(node, ast.Compare) and _names(node.left, setting) for word in _words(node)
    ]
    return list(dict.fromkeys(found))


@cache
def _tree(part: Any) -> ast.Module:
    return ast.parse(textwrap.dedent(inspect.getsource(part)))


def _names(node: ast.expr, setting: str) -> bool:
    return (isinstance(node, ast.Name) and node.id == setting) or (
        isinstance(node, ast.Attribute) and node.attr == setting
    )


def _words(node: ast.Compare) -> Iterator[str]:
    for other in node.comparators:
        each = other.elts if isinstance(other, ast.Tuple | ast.List | ast.Set) else [other]
        yield from (e.value for e in each if isinstance(e, ast.Constant) and isinstance(e.value, str))
