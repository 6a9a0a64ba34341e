"""The loss as each rank makes it: told which rank it is where it wants to be told."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from typing import Any

from loss_conformance.copying import copy_of
from loss_conformance.ranks.asked import distributed_calls
from loss_conformance.ranks.threads import WORLD
from loss_conformance.subject.subject import Subject

__all__ = ["asks_at_construction", "loss_of_rank"]

_one_at_a_time = threading.Lock()


def asks_at_construction(subject: Subject) -> bool:
    """Return whether the loss wants to be told its rank, or its constructor asks torch.distributed."""
    if _told(subject, 0) or _attributes(subject.loss):
        return True
    if subject.rebuild is None:
        return False
    with distributed_calls() as names, contextlib.suppress(Exception):
        subject.rebuild({})
    return bool(names)


def loss_of_rank(subject: Subject, rank: int) -> Any:
    """Return the loss of one rank, made on that rank where it can be made again, else a copy."""
    told = _told(subject, rank)
    loss = copy_of(subject.loss) if subject.rebuild is None else _made(subject.rebuild, told)
    for name in _attributes(loss):
        setattr(loss, name, _answers(rank)[name])
    return loss


def _answers(rank: int) -> dict[str, int]:
    return {"rank": rank, "world_size": WORLD}


def _told(subject: Subject, rank: int) -> dict[str, int]:
    """Return the settings that say which rank a loss is on, as far as it has them.

    A rank without a world is the rank of something else, a matrix.
    """
    settings = subject.settings
    return {name: value for name, value in _answers(rank).items() if name in settings and "world_size" in settings}


def _attributes(loss: Any) -> list[str]:
    own = getattr(loss, "__dict__", {})
    return [name for name in _answers(0) if type(own.get(name)) is int and type(own.get("world_size")) is int]


def _made(make: Callable[[Mapping[str, Any]], Any], told: dict[str, int]) -> Any:
    # The random numbers a constructor draws are those of the process; one that waits for other ranks is not waited for.
    locked = _one_at_a_time.acquire(timeout=1.0)
    try:
        return make(told)
    finally:
        if locked:
            _one_at_a_time.release()
