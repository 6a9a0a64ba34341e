"""Process-wide state a loss must leave alone: what it is now, and putting it back."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy
import torch

__all__ = ["changed_state", "global_state", "restored_global_state"]


def global_state() -> dict[str, Any]:
    """Return every watched piece of process-wide state by the name a user knows it by."""
    return {
        "torch random state": torch.get_rng_state(),
        "random state": random.getstate(),
        "numpy random state": _numpy_state(),
        "torch default dtype": torch.get_default_dtype(),
        "torch grad mode": torch.is_grad_enabled(),
        "torch inference mode": torch.is_inference_mode_enabled(),
        "torch anomaly mode": torch.is_anomaly_enabled(),
        "torch thread count": torch.get_num_threads(),
        "torch deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "torch float32 matmul precision": torch.get_float32_matmul_precision(),
        "torch CPU autocast": torch.is_autocast_enabled("cpu"),
        "working directory": os.getcwd(),
    }


def _numpy_state() -> tuple[Any, ...]:
    # A draw moves the position in the table; the table itself changes only once it is used up.
    _, table, *position = numpy.random.get_state()
    return (table.tobytes(), *position)  # type: ignore[attr-defined]


def changed_state(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return one line for every piece of state that differs, with both values where they are short."""
    lines = []
    for name, old in before.items():
        new = after[name]
        same = torch.equal(old, new) if isinstance(old, torch.Tensor) else old == new
        if not same:
            brief = len(f"{old}{new}") < 60
            lines.append(f"{name}: {old} → {new}" if brief else f"{name} changed")
    return lines


@contextlib.contextmanager
def restored_global_state() -> Iterator[None]:
    """Run the body and put every watched piece of state back as it was."""
    before = global_state()
    numpy_state = numpy.random.get_state()
    try:
        yield
    finally:
        torch.set_rng_state(before["torch random state"])
        random.setstate(before["random state"])
        numpy.random.set_state(numpy_state)
        after = global_state()
        # Only what changed is put back: some of these setters import half of torch the first time.
        for name, put_back in _SETTERS.items():
            if after[name] != before[name]:
                put_back(before[name])


_SETTERS: Final[dict[str, Callable[[Any], Any]]] = {
    "torch default dtype": torch.set_default_dtype,
    "torch grad mode": torch.set_grad_enabled,
    "torch anomaly mode": torch.set_anomaly_enabled,
    "torch thread count": torch.set_num_threads,
    "torch deterministic algorithms": torch.use_deterministic_algorithms,
    "torch float32 matmul precision": torch.set_float32_matmul_precision,
    "torch CPU autocast": lambda enabled: torch.set_autocast_enabled("cpu", enabled),
    "working directory": os.chdir,
}
