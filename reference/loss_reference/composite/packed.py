"""Where each sequence of a packed batch lies, and views of the batch that show some sequences as padded rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from loss_reference.contract import Field
from loss_reference.groups import group_weights
from loss_reference.interface import Batch
from loss_reference.reduction import row_weights
from loss_reference.shapes import require_shape
from loss_reference.view import ReadOnlyView
from loss_reference.vocabulary import BATCH_FIELDS, MODEL_OUTPUT_FIELDS

__all__ = ["PackedView", "Packing"]

TOKEN_AXES: Final = {"S": 0, "S-1": 1}
"""Letters of the axis over tokens, with how many entries fewer than tokens it has."""


@dataclass(frozen=True)
class Packing:
    """How N sequences are packed.

    Attributes:
        lengths: the number of tokens of each.
        starts: where each begins in its pack.
        group_size: how many neighbouring sequences are shown together.
        fields: the axes of every known field, by name.
        counts: ``global_valid_toks`` and ``global_valid_seqs`` of the whole batch.
    """

    lengths: tuple[int, ...]
    starts: tuple[int, ...]
    group_size: int
    fields: Mapping[str, tuple[str, ...]]
    counts: Mapping[str, Tensor]

    @classmethod
    def of(cls, batch: Batch, declared: Mapping[str, Field], group_size: int) -> Packing:
        """Return the packing that ``input_lengths`` [N] of the batch describes.

        Args:
            batch: the batch.
            declared: fields outside the vocabulary, by name.
            group_size: how many neighbouring sequences belong together.

        Raises:
            ValueError: lengths that are not [N], below 0, or not whole groups of sequences.
        """
        require_shape("input_lengths", batch["input_lengths"], ("N",), "one length per sequence")
        lengths = tuple(int(length) for length in batch["input_lengths"].tolist())
        if len(lengths) % group_size:
            raise ValueError(
                f"input_lengths has {len(lengths)} sequences; {group_size} belong together, so expected a multiple of that"
            )
        if min(lengths, default=0) < 0:
            raise ValueError(f"input_lengths holds {min(lengths)}; expected numbers of tokens, at least 0")
        known = {**MODEL_OUTPUT_FIELDS, **BATCH_FIELDS, **declared}
        axes = {name: tuple(field.shape.split()) for name, field in known.items()}
        packing = cls(lengths, (0, *accumulate(lengths))[:-1], group_size, axes, {})
        return cls(lengths, packing.starts, group_size, axes, packing.counted(batch))

    def groups(self) -> Iterator[range]:
        """Iterate over the groups, each a range of sequence numbers."""
        for first in range(0, len(self.lengths), self.group_size):
            yield range(first, first + self.group_size)

    def rows(self, name: str, field: Tensor, group: range) -> Tensor:
        """Return what ``field`` holds of the sequences of ``group``, [K, longest, ...] or [K, ...].

        Raises:
            ValueError: a field with a token axis that is neither packed nor padded, or is too short.
        """
        axes = self.fields.get(name, ())
        if not axes or axes[0] != "B":
            return field
        N, fewer = len(self.lengths), TOKEN_AXES.get(axes[1]) if len(axes) > 1 else None
        if fewer is None:
            require_shape(name, field, (N, *axes[1:]), "one row per sequence")
            return field[group.start : group.stop]
        packed = field.shape[0] == 1 and N > 1
        if field.shape[0] not in (1, N):
            raise ValueError(f"{name} has {field.shape[0]} rows; expected 1 (packed) or {N} (one per sequence)")
        longest = max(1, *(self.lengths[i] for i in group)) - fewer
        rows = []
        for i in group:
            start, size = (self.starts[i] if packed else 0), max(self.lengths[i] - fewer, 0)
            if start + size > field.shape[1]:
                raise ValueError(
                    f"{name} has {field.shape[1]} positions; sequence {i} of length {self.lengths[i]} ends at {start + size}"
                )
            row = field[0 if packed else i, start : start + size]
            rows.append(F.pad(row, (*[0, 0] * (row.dim() - 1), 0, longest - size)))
        return torch.stack(rows)

    def counted(self, batch: Batch) -> dict[str, Tensor]:
        """Return the counts of the whole batch: those it carries, else sums of its weights."""
        counts = {name: batch.get(name) for name in ("global_valid_toks", "global_valid_seqs")}
        mask = batch.get("token_mask")
        if mask is None:
            return {name: count for name, count in counts.items() if count is not None}
        everyone = range(len(self.lengths))
        m = self.rows("token_mask", mask, everyone).detach()
        m = m if m.is_floating_point() else m.to(torch.float32)
        w = row_weights(batch, m)
        if counts["global_valid_toks"] is None:
            counts["global_valid_toks"] = (m[:, 1:] * w.unsqueeze(1)).sum()
        if counts["global_valid_seqs"] is None:
            counts["global_valid_seqs"] = self.group_size * group_weights(w, self.group_size).sum()
        return {name: count for name, count in counts.items() if count is not None}


class PackedView(ReadOnlyView):
    """A read-only view of a mapping that shows the sequences of one group as a padded batch of its own."""

    def __init__(self, fields: Mapping[str, Any], packing: Packing, group: range) -> None:
        super().__init__(fields)
        self._packing, self._group = packing, group

    def _shown(self, name: str, field: Any, /) -> Any:
        if name in self._packing.counts:
            return self._packing.counts[name]
        return self._packing.rows(name, field, self._group) if isinstance(field, Tensor) else field

    def get(self, name: str, default: Any = None) -> Any:
        """Return the field, or ``default`` when there is none; a count also where the batch carries none."""
        return self._packing.counts[name] if name in self._packing.counts else super().get(name, default)
