"""How long a process has waited for a processor: time that no limit of a loss may count."""

from __future__ import annotations

from typing import Final

__all__ = ["seconds_starved"]

NANOSECOND: Final = 1e-9


def seconds_starved(process: int | None = None) -> float:
    """Return for how many seconds the first thread of a process, by default this one, was ready to run and did not.

    It waits so where other programs want the same processors. 0 where the system does not tell.
    """
    try:
        with open(f"/proc/{process or 'self'}/schedstat") as schedstat:
            return int(schedstat.read().split()[1]) * NANOSECOND
    except (OSError, ValueError, IndexError):
        return 0.0
