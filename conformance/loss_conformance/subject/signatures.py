"""The parameters of anything callable, found where they are really written down."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from inspect import Parameter
from typing import Any

from torch import nn

__all__ = ["VARIADIC", "parameters_of", "required_parameters"]

VARIADIC = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


def parameters_of(function: Callable[..., Any]) -> list[Parameter]:
    """Return the parameters of a call, ``self`` left out; those of ``forward`` for a module; none when unknown."""
    target = function.forward if isinstance(function, nn.Module) else function
    try:
        return list(inspect.signature(target).parameters.values())
    except (TypeError, ValueError):
        return []


def required_parameters(function: Callable[..., Any]) -> list[str]:
    """Return the names of the parameters that have no default."""
    return [p.name for p in parameters_of(function) if p.default is Parameter.empty and p.kind not in VARIADIC]
