"""A case: the tensors a loss is fed, and which of their entries may matter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from loss_conformance.cases.plan import Plan
from loss_conformance.cases.slot import Schema, Slot

__all__ = ["Case"]


@dataclass(frozen=True, eq=False)
class Case:
    """The inputs of one call.

    Attributes:
        schema: what each tensor is.
        tensors: the inputs by ``Slot.key``; optional ones may be absent.
        trained: [B, S] bool, the tokens that are trained on; entry 0 is never.
        rows: [B] weights of the rows; the smaller of the two within a pair.
        plan: what it was built from; ``None`` for a batch of the user's own.
    """

    schema: Schema
    tensors: Mapping[str, Tensor]
    trained: Tensor
    rows: Tensor
    plan: Plan | None = None

    def slots(self) -> list[Slot]:
        """Return the slots this case fills, in order."""
        return [slot for slot in self.schema.slots if slot.key in self.tensors]

    def tensor(self, slot: Slot) -> Tensor:
        """Return the tensor that fills ``slot``."""
        return self.tensors[slot.key]

    def as_called(self, slot: Slot) -> Tensor:
        """Return the tensor in the order of rows the loss takes: interleaved pairs, or all chosen rows first."""
        tensor = self.tensor(slot)
        if not self.schema.halves or slot.row_axis is None:
            return tensor
        rows = torch.arange(tensor.shape[slot.row_axis], device=tensor.device)
        return tensor.index_select(slot.row_axis, torch.cat((rows[0::2], rows[1::2])))

    def as_in_training(self, slot: Slot) -> Tensor:
        """Return the tensor as a training loop hands it over: the result of a model when it is trained, never a leaf."""
        tensor = self.tensor(slot).clone()
        trained = slot.trainable and tensor.is_floating_point()
        return tensor.requires_grad_().clone() if trained else tensor

    def with_tensors(self, changed: Mapping[str, Tensor]) -> Case:
        """Return the same case with some tensors replaced."""
        return replace(self, tensors={**self.tensors, **changed})

    def without(self, key: str) -> Case:
        """Return the same case with one optional input left out."""
        return replace(self, tensors={name: tensor for name, tensor in self.tensors.items() if name != key})

    def active(self, slot: Slot) -> Tensor:
        """Return the entries of ``slot`` that a loss may look at: a bool tensor of its shape.

        An entry along tokens is inactive when the token it speaks of is not trained on or lies outside the sequence; an
        entry along rows when its row weighs nothing.
        """
        tensor = self.tensor(slot)
        token_axis, row_axis = slot.token_axis, slot.row_axis
        if token_axis is not None and row_axis is not None:
            speaks_of = torch.arange(tensor.shape[token_axis]) + slot.shift
            inside = (speaks_of < self.trained.shape[1]) & (speaks_of >= 0)
            trained = self.trained.flip(1).cumsum(1).flip(1) > 0 if slot.later else self.trained
            grid = trained[:, speaks_of.clamp(max=self.trained.shape[1] - 1)] & inside & (self.rows != 0)[:, None]
            shape = [tensor.shape[axis] if axis in (row_axis, token_axis) else 1 for axis in range(tensor.dim())]
            ordered = grid if row_axis < token_axis else grid.T
            return ordered.reshape(shape).expand(tensor.shape)
        if row_axis is not None:
            shape = [tensor.shape[axis] if axis == row_axis else 1 for axis in range(tensor.dim())]
            return (self.rows != 0).reshape(shape).expand(tensor.shape)
        return torch.ones_like(tensor, dtype=torch.bool)

    @property
    def weight(self) -> Tensor:
        """m = trained * rows, [B, S]: the weight of every token."""
        return self.trained.to(self.rows) * self.rows[:, None]

    @cached_property
    def terms(self) -> int:
        """How many numbers a loss may add up: the entries of its largest input."""
        return max((t.numel() for t in self.tensors.values() if t.is_floating_point()), default=1)

    @cached_property
    def reach(self) -> float:
        """max |x| over the finite entries of all inputs."""
        finite = [t[torch.isfinite(t)].abs() for t in self.tensors.values() if t.is_floating_point()]
        return max((float(t.amax()) for t in finite if t.numel()), default=0.0)

    def cast(self, dtype: torch.dtype) -> Case:
        """Return the same case with every floating-point tensor in ``dtype``."""
        return replace(
            self, tensors={key: t.to(dtype) if t.is_floating_point() else t for key, t in self.tensors.items()}
        )

    def to(self, device: torch.device) -> Case:
        """Return the same case with every tensor on ``device``."""
        return replace(self, tensors={key: t.to(device) for key, t in self.tensors.items()})
