"""A row of the library table: a loss, what computes it elsewhere, and whether the two agree in value and gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from loss_reference import LossFunction, registry
from tests.interop.inputs import Inputs

Side = Callable[[LossFunction, Inputs], Tensor]
ROUNDINGS = 16
"""How many times a term is rounded on its way: exp, log, product, sum of its neighbours, and as much again backwards."""


def as_given(loss: LossFunction, inputs: Inputs) -> Tensor:
    """Return our loss of the inputs as they are."""
    result = loss(inputs.batch, inputs.outputs)
    return result[0] if isinstance(result, tuple) else result


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        loss: registered name of ours.
        library: distribution that holds theirs, a key of ``RELEASES``.
        counterpart: the call there, as the table shows it.
        inputs: draws the inputs, from a dtype and a seed.
        theirs: their loss of the inputs, by a small adapter.
        config: settings of ours to which both sides are set, such as beta.
        option: settings of ours that reproduce a convention of theirs; without them the two differ.
        difference: in what theirs differs, when ``ours`` has to convert.
        note: what else to know.
        ours: our loss of the inputs; with a ``difference``, converted so that it equals theirs.
        plain: our loss without the conversion, for a check that it is needed; None where there is no such thing.
        dtype: the widest that theirs computes in.
        slack: what theirs adds on purpose, such as 1e-8 to a divisor, relative to terms of size 1 at least.
    """

    loss: str
    library: str
    counterpart: str
    inputs: Callable[[torch.dtype, int], Inputs]
    theirs: Callable[[Inputs], Tensor]
    config: Mapping[str, Any] = field(default_factory=dict)
    option: Mapping[str, Any] = field(default_factory=dict)
    difference: str = ""
    note: str = ""
    ours: Side = as_given
    plain: Side | None = as_given
    dtype: torch.dtype = torch.float64
    slack: float = 0.0

    def __str__(self) -> str:
        return f"{self.loss}-{self.library}-{self.counterpart}"

    @property
    def verdict(self) -> str:
        """Return what the table says: same, same with an option of ours, or how it differs."""
        options = ", ".join(f"`{name}={value!r}`".replace("'", '"') for name, value in self.option.items())
        if self.difference:
            said = f"differs: {self.difference}" + (f" (compared with {options})" if options else "")
        else:
            said = f"same with {options}" if options else "same"
        return f"{said}; {self.note}" if self.note else said

    def build(self, with_option: bool = True) -> LossFunction:
        """Return our loss with the settings of this row."""
        settings = {**self.config, **(self.option if with_option else {})}
        return registry.create(self.loss, settings).to(self.dtype)

    def close(self, a: Tensor, b: Tensor, inputs: Inputs) -> bool:
        """Return whether two values or gradients agree, relative to the largest number among them.

        The bound is eps of the dtype, times ``ROUNDINGS``, times the root of how many numbers are summed: rounding
        errors of either sign add up like a random walk.
        """
        summed = max(leaf.numel() for leaf in inputs.leaves.values())
        rounding = ROUNDINGS * summed**0.5 * torch.finfo(self.dtype).eps
        largest = max(float(a.abs().max()), float(b.abs().max()))
        bound = rounding * max(1e-3, largest) + self.slack * max(1.0, largest)
        return bool((a.double() - b.double()).abs().max() <= bound)


@dataclass(frozen=True)
class Computed:
    """A value, and its gradient by every leaf."""

    value: Tensor
    gradient: dict[str, Tensor]


def compute(side: Callable[[Inputs], Tensor], inputs: Inputs) -> Computed:
    """Return value and gradient of one side; a leaf it does not use has gradient 0."""
    value = side(inputs)
    leaves = inputs.leaves
    gradient = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
    filled = (torch.zeros_like(x) if g is None else g for x, g in zip(leaves.values(), gradient, strict=True))
    return Computed(value.detach(), dict(zip(leaves, filled, strict=True)))


def agree(row: Row, a: Computed, b: Computed, inputs: Inputs) -> bool:
    """Return whether values and gradients of two sides agree."""
    return row.close(a.value, b.value, inputs) and all(
        row.close(a.gradient[name], b.gradient[name], inputs) for name in inputs.leaves
    )
