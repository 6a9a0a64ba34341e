"""What is said when no inputs were found that a loss accepts by its parameter names."""

from __future__ import annotations

from typing import Any

from torch import nn

from loss_conformance.subject.parameter_names import nearest_known
from loss_conformance.subject.probe import Probe
from loss_conformance.subject.protocol import CannotFeed
from loss_conformance.subject.user_frames import user_traceback

__all__ = ["list_of_tensors", "no_parameters", "none_fits", "unknown_field_of", "unknown_parameter"]

_SHOWN = 6


def no_parameters() -> CannotFeed:
    """Say that the call takes nothing that could be fed."""
    return CannotFeed(
        "it takes no tensors: it has no parameters of its own (*args and **kwargs say nothing); name and declare them:\n"
        '    contract = Contract(fields={"input": Field(role="logits", shape="B V"), '
        '"target": Field(role="labels", shape="B")})'
    )


def list_of_tensors(name: str, annotation: str) -> CannotFeed:
    """Say that a required parameter is a list: how many tensors there are, and how they hang together, is not known."""
    return CannotFeed(
        f"its argument {name!r} is a list of tensors ({annotation}), and how many, and of what sizes, is not known;\n"
        "name a function that takes tensors and makes the list:\n"
        f"    def loss(input, target):\n        return the_loss({name}=[input], ...)"
    )


def unknown_parameter(loss: Any, name: str) -> CannotFeed:
    """Say that a required parameter has a name that is not known."""
    lines = [
        f"it needs the argument {name!r}, whose meaning is not known{nearest_known(name)}",
        "  if it is a tensor, declare it, on the loss or in --loss-contract:",
        f'      contract = Contract(fields={{"{name}": Field(role="values", shape="B D")}})',
    ]
    if not isinstance(loss, nn.Module):
        lines += ["  if it is a setting, give it a value:", f"      --loss-config '{{\"{name}\": ...}}'"]
    return CannotFeed("\n".join(lines))


def unknown_field_of(argument: str, field: str) -> CannotFeed:
    """Say that a loss reads a field of an argument whose name is not known."""
    return CannotFeed(
        f"it reads {argument}[{field!r}], whose meaning is not known{nearest_known(field)}\n"
        "name a function that takes tensors and fills the argument, and declare what they are:\n"
        f"    def loss(logits, {field}):\n        return the_loss({argument}={{...}}, ...)\n"
        f'    loss.contract = Contract(fields={{"{field}": Field(role="values", shape="B S"), ...}})'
    )


def none_fits(parameters: list[str], tried: list[tuple[str, Probe]]) -> CannotFeed:
    """Say which readings of the parameters were tried and what the loss raised on each."""
    fields = ", ".join(f'"{name}": Field(role=..., shape=...)' for name in parameters)
    lines = [f"it accepts none of the inputs its parameters suggest ({', '.join(parameters)})"]
    distinct: dict[str, str] = {}
    for name, outcome in tried:
        text = " ".join(str(outcome.error).split())
        distinct.setdefault(name, f"{type(outcome.error).__name__}: {text[:110]}")
    lines += [f"  {name}: {error}" for name, error in list(distinct.items())[:_SHOWN]]
    if len(distinct) > _SHOWN:
        lines.append(f"  and {len(distinct) - _SHOWN} more")
    if not distinct:
        lines.append("  these names do not occur together in any loss that is known here")
    lines += [
        "declare what they are, on the loss or in --loss-contract:",
        f"    contract = Contract(fields={{{fields}}})",
    ]
    first = next((outcome.error for _, outcome in tried if outcome.error is not None), None)
    return CannotFeed("\n".join(lines), user_traceback(first) if first is not None else "")
