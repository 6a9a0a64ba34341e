"""Process-wide state a loss must leave alone: what it is now, and putting it back."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy
import torch

from loss_conformance.torch_functions import functions_kept, look_again
from loss_conformance.watched_state import FUNCTIONS, WATCHED

__all__ = [
    "changed_state",
    "global_state",
    "random_numbers_from",
    "restart_random_numbers",
    "restored_global_state",
]


def global_state() -> dict[str, Any]:
    """Return every watched piece of process-wide state by the name a user knows it by."""
    return {
        "torch random state": torch.get_rng_state(),
        "random state": random.getstate(),
        "numpy random state": _numpy_state(),
        **{name: read() for name, (read, _) in WATCHED.items()},
    }


def _numpy_state() -> tuple[Any, ...]:
    # A draw moves the position in the table; the table itself changes only once it is used up.
    _, table, *position = numpy.random.get_state()
    return (table.tobytes(), *position)  # type: ignore[attr-defined]


def changed_state(before: dict[str, Any], after: dict[str, Any]) -> dict[str, str]:
    """Return how every piece of state that differs has changed, with both values where they are short, by its name."""
    changes = {}
    for name, old in before.items():
        new = after[name]
        same = torch.equal(old, new) if isinstance(old, torch.Tensor) else old == new
        if not same:
            changes[name] = _difference(name, old, new)
    return changes


def _difference(name: str, old: Any, new: Any) -> str:
    if name == FUNCTIONS:
        return f"replaced: {', '.join(sorted(set(new[len(old) :])))}"
    if isinstance(old, dict):
        keys = sorted(key for key in {**old, **new} if old.get(key) != new.get(key))
        return f"{name} changed: {', '.join(keys)}"
    brief = len(f"{old}{new}") < 60
    return f"{name}: {old} → {new}" if brief else f"{name} changed"


@contextlib.contextmanager
def random_numbers_from(seed: int) -> Iterator[None]:
    """Start every random generator of the process at ``seed``, and put it back where it was."""
    state, torch_state, numpy_state = random.getstate(), torch.get_rng_state(), numpy.random.get_state()
    restart_random_numbers(seed)
    try:
        yield
    finally:
        random.setstate(state)
        torch.set_rng_state(torch_state)
        numpy.random.set_state(numpy_state)


def restart_random_numbers(seed: int) -> None:
    """Start every random generator of the process at ``seed``."""
    random.seed(seed)
    torch.default_generator.manual_seed(seed)
    numpy.random.seed(seed % 2**32)


@contextlib.contextmanager
def restored_global_state() -> Iterator[Callable[[], None]]:
    """Run the body, and put random numbers and every watched piece of state back as they were.

    Yields what puts back all but the random numbers, for use in between.
    """
    look_again()
    put_back = _global_state_of_now()
    try:
        # Functions first: some of them put the rest back.
        with functions_kept(), random_numbers_from(0):
            yield put_back
    finally:
        put_back()


def _global_state_of_now() -> Callable[[], None]:
    before = {name: read() for name, (read, _) in WATCHED.items()}

    def put_back() -> None:
        for name, (read, write) in WATCHED.items():
            # Only what changed is put back: some of these setters import half of torch the first time.
            if read() != before[name]:
                write(before[name])

    return put_back
