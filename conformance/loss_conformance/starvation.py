"""How long a process has waited for a processor: time that no limit of a loss may count."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final

__all__ = ["seconds_starved", "waiting_for"]

NANOSECOND: Final = 1e-9

_awaited: list[int] = []


@contextlib.contextmanager
def waiting_for(processes: Sequence[int]) -> Iterator[None]:
    """Run the body, which does nothing but wait for these processes: time for which they starve, this one starves."""
    _awaited.extend(processes)
    try:
        yield
    finally:
        for process in processes:
            _awaited.remove(process)


def seconds_starved(process: int | None = None) -> float:
    """Return for how many seconds the first thread of a process, by default this one, was ready to run and did not.

    It waits so where other programs want the same processors, and so does what it waits for. 0 where the system does not
    tell.
    """
    if process is None and _awaited:
        return _seconds_starved(None) + sum(map(_seconds_starved, _awaited))
    return _seconds_starved(process)


def _seconds_starved(process: int | None) -> float:
    try:
        if process is None:
            # Asked twice for every case: reading an open file again costs a tenth of opening it.
            said = os.pread(_own_schedstat(os.getpid()), 128, 0)
        else:
            with open(f"/proc/{process}/schedstat", "rb") as schedstat:
                said = schedstat.read()
        return int(said.split()[1]) * NANOSECOND
    except (OSError, ValueError, IndexError):
        return 0.0


@lru_cache(maxsize=1)
def _own_schedstat(process: int) -> int:
    # By process: what is open in a parent speaks of the parent.
    return os.open(f"/proc/{process}/schedstat", os.O_RDONLY)
