"""The shares of several ranks, and the whole batch they are shares of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from loss_conformance.cases.case import Case
from loss_conformance.cases.slot import Slot

__all__ = ["axis_of_share", "joined", "of_one_batch"]


def axis_of_share(slot: Slot) -> int | None:
    """Return the axis along which ranks hold different parts: over rows, or over terms that name rows."""
    return next((axis for axis, letter in enumerate(slot.shape) if letter in ("B", "N")), None)


def of_one_batch(parts: Sequence[Case]) -> list[Case] | None:
    """Return the cases as shares of one batch: what has no rows alike, counts those of all; ``None`` if they are none."""
    slots = parts[0].slots()
    if any(sum(letter == "B" for letter in slot.shape) > 1 for slot in slots):
        return None
    if any(part.tensors.keys() != parts[0].tensors.keys() for part in parts):
        return None
    alike = {}
    for slot in slots:
        if slot.role == "count":
            alike[slot.key] = torch.stack([part.tensor(slot) for part in parts]).sum(0)
        elif axis_of_share(slot) is None:
            alike[slot.key] = parts[0].tensor(slot)
    return [part.with_tensors(alike) for part in parts]


def joined(shares: Sequence[Case]) -> Case:
    """Return the batch of which these are the shares, rows in order of rank, indices of rows following them."""
    tensors = {}
    for slot in shares[0].slots():
        axis = axis_of_share(slot)
        if axis is None:
            continue
        pieces, rows = [], 0
        for share in shares:
            pieces.append(share.tensor(slot) + (rows if slot.role == "pairs" else 0))
            rows += len(share.rows)
        tensors[slot.key] = torch.cat(pieces, dim=axis)
    return replace(
        shares[0].with_tensors(tensors),
        trained=torch.cat([share.trained for share in shares]),
        rows=torch.cat([share.rows for share in shares]),
    )
