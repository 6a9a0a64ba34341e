"""Whole numbers outside the batch vocabulary: class labels, those that mark their own entry as masked, and lengths."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.cases.slot import Schema, Slot

if TYPE_CHECKING:
    from loss_conformance.cases.values import World

__all__ = ["BINARY", "BOOLEAN", "EVENTS", "MULTILABEL", "binary_value", "label_value", "with_ignored"]

BINARY = "binary_targets"
"""Kind of floating-point targets that are exactly 0 or 1."""

BOOLEAN = "boolean_labels"
"""Kind of labels of two classes that arrive as truth values."""

EVENTS = "event_labels"
"""Kind of labels that are 1 where the event came: without any there is nothing to learn, as where all is masked."""

MULTILABEL = "multilabel_targets"
"""Kind of [B, V] class ids of which the ones before the first -1 count, as ``MultiLabelMarginLoss`` wants them."""


def label_value(slot: Slot, world: World) -> Tensor:
    """Return labels, token ids or lengths: whole numbers from ``slot.low`` up to, not including, ``slot.high``."""
    shape = [world.size(letter) for letter in slot.shape]
    if slot.kind == MULTILABEL:
        return _multilabel(world, *shape)
    low = int(slot.low) if slot.low is not None else 0
    if slot.role == "lengths":
        low = max(low, 1)
        return low + world.integers((int(slot.high) if slot.high is not None else world.tokens + 1) - low, *shape)
    labels = low + world.integers(_classes(slot, world) - low, *shape)
    if slot.kind == EVENTS and not bool(labels.any()):
        labels[0] = 1
    # Of one class alone where nothing is to be told apart.
    return labels[:1].expand(shape).clone() if world.plan.nothing_there and slot.shape == ("B",) else labels


def binary_value(slot: Slot, world: World) -> Tensor:
    """Return targets that are 0 or 1."""
    return world.integers(2, *(world.size(letter) for letter in slot.shape)).to(torch.float64)


def with_ignored(labels: Tensor, slot: Slot, world: World) -> Tensor:
    """Return ``labels`` with the ignored label exactly where nothing is trained on."""
    assert slot.ignore is not None
    active = Case(Schema((slot,)), {slot.key: labels}, world.trained, world.weights).active(slot)
    other = (slot.ignore + 1) % _classes(slot, world)
    return torch.where(active, torch.where(labels == slot.ignore, other, labels), slot.ignore)


def _classes(slot: Slot, world: World) -> int:
    return int(slot.high) if slot.high is not None else world.plan.vocabulary


def _multilabel(world: World, rows: int, classes: int) -> Tensor:
    order = torch.rand(rows, classes, generator=world.generator).argsort(dim=1)
    positives = 1 + world.integers(classes - 1, rows, 1)
    return torch.where(torch.arange(classes) < positives, order, -1)
