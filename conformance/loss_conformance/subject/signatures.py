"""The parameters of anything callable, found where they are really written down."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from inspect import Parameter
from typing import Any

from torch import nn

__all__ = ["VARIADIC", "annotation_of", "is_list_of_tensors", "parameters_of", "required_parameters"]

VARIADIC = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)

_LIST_OF_TENSORS = re.compile(r"(list|tuple|sequence|iterable)\[.*tensor.*\]", re.IGNORECASE)


def parameters_of(function: Callable[..., Any]) -> list[Parameter]:
    """Return the parameters of a call, ``self`` left out; those of ``forward`` for a module; none when unknown."""
    # Some modules override the call itself and define no forward.
    forwards = isinstance(function, nn.Module) and type(function).__call__ is nn.Module.__call__
    target = function.forward if isinstance(function, nn.Module) and forwards else function
    try:
        return list(inspect.signature(target).parameters.values())
    except (TypeError, ValueError):
        return []


def required_parameters(function: Callable[..., Any]) -> list[str]:
    """Return the names of the parameters that have no default."""
    return [p.name for p in parameters_of(function) if p.default is Parameter.empty and p.kind not in VARIADIC]


def annotation_of(parameter: Parameter) -> str:
    """Return the annotation of a parameter as a person writes it, or the empty string."""
    if parameter.annotation is Parameter.empty:
        return ""
    text = (
        parameter.annotation
        if isinstance(parameter.annotation, str)
        else inspect.formatannotation(parameter.annotation)
    )
    return text.strip("'\"").replace("typing.", "").replace("collections.abc.", "")


def is_list_of_tensors(parameter: Parameter) -> bool:
    """Return whether a parameter is annotated as a list of tensors, and as nothing else."""
    return _LIST_OF_TENSORS.fullmatch(annotation_of(parameter)) is not None
