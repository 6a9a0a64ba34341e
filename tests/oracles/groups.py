"""Groups of K neighbouring rows: rows gK .. gK+K-1 are group g."""

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from .counts import Fields, row_weight


def group_weights(batch: Fields, rows: int, group_size: int) -> list[float]:
    """w_g = the least sample_mask among the group's rows; a number of rows that K does not divide is an error."""
    if group_size < 1 or rows % group_size != 0:
        raise ValueError(f"groups of {group_size} rows need a multiple of that many rows, got {rows}")
    return [min(row_weight(batch, b) for b in range(first, first + group_size)) for first in range(0, rows, group_size)]


def group_mean(batch: Fields, rows: int, group_size: int, term: Callable[[range], float]) -> float:
    """sum_g w_g term(rows of g) / groups; groups = S_g / K where given, or else sum_g w_g, at least 1."""
    weights = group_weights(batch, rows, group_size)
    total = 0.0
    for g, weight in enumerate(weights):
        if weight != 0.0:
            total += weight * term(range(g * group_size, (g + 1) * group_size))
    if "global_valid_seqs" in batch:
        return total / max(float(batch["global_valid_seqs"]) / group_size, 1.0)
    return total / max(sum(weights), 1.0)


def best_first(values: NDArray[Any], members: range) -> list[int]:
    """The group's rows by falling value, the earlier row first where values are equal."""
    return sorted(members, key=lambda b: (-float(values[b]), b))
