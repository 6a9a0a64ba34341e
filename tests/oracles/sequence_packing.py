"""A loss of packed sequences: the sequences end to end in one row, without padding, and input_lengths [N]."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .composite_presets import component
from .counts import Fields

Array = NDArray[Any]


def unpacked(value: Array, lengths: list[int], columns: int) -> Array:
    """[N, width, ..] from [1, sum of lengths, ..]; 0 after each sequence's end.

    next_token_logprobs have a column less: what a sequence's last token says of the next one's first is dropped.
    """
    width = max(lengths)
    short = columns - value.shape[1]
    result = np.zeros((len(lengths), width - short, *value.shape[2:]), dtype=value.dtype)
    start = 0
    for i, length in enumerate(lengths):
        for t in range(length - short):
            result[i, t] = value[0, start + t]
        start += length
    return result


def padded(fields: Fields, lengths: list[int], columns: int) -> Fields:
    """The fields with their packed ones unpacked; those with a row per sequence stay, as scalars do."""
    result = {}
    for name, value in fields.items():
        packed = value.ndim >= 2 and value.shape[0] == 1 and value.shape[1] in (columns, columns - 1)
        result[name] = unpacked(value, lengths, columns) if packed else value
    return result


def sequence_packing(batch: Fields, outputs: Fields, *, loss: dict[str, Any] | None = None) -> float:
    """The component (nll unless given) of the same sequences in rows of their own, padded with untrained tokens."""
    lengths = [int(n) for n in batch["input_lengths"]]
    if sum(lengths) == 0:
        return 0.0
    columns = int(batch["token_mask"].shape[1])
    kept = {name: value for name, value in batch.items() if name != "input_lengths"}
    rows = padded(kept, lengths, columns), padded(outputs, lengths, columns)
    return component(*rows, loss or {"type": "nll"})
