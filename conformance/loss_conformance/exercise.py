"""How much of a loss its cases exercised: a green run over inputs on which nothing moves says little."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

if TYPE_CHECKING:
    from loss_conformance.bench import Bench

__all__ = ["exercise_warnings"]

MUCH: Final = 0.5
"""Share of ordinary cases from which on a standstill is worth a warning."""


def exercise_warnings(bench: Bench) -> tuple[str, ...]:
    """Return one line for each sign that the ordinary cases of this run exercised little."""
    bases = bench.ordinary_bases()
    if not bases:
        return ("no ordinary case gave a value: only the checks that expect that were exercised",)
    said = []
    still = sum(not any(bool((g != 0).any()) for g in base.gradients.values()) for base in bases)
    if still > MUCH * len(bases):
        said.append(f"the gradient was 0 in {still} of {len(bases)} ordinary cases")
    values = [float(base.value) for base in bases]
    most = max(values.count(value) for value in values)
    if most > MUCH * len(values) and len(values) > 1:
        said.append(f"the loss was the same in {most} of {len(values)} ordinary cases")
    if bench.dtype is not torch.float64:
        said.append("it takes no float64 inputs: every law was tried in float32, with its coarser tolerances")
    return tuple(said)
