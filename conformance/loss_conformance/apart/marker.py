"""What the child is doing, in memory its parent can still read when the child is no more."""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import struct
import time
from collections.abc import Iterator
from typing import Final

from loss_conformance.attempt import Attempt
from loss_conformance.starvation import seconds_starved

__all__ = ["Marker"]

_SIZE: Final = 8192
# When it must be done by, how long its process had been starved, which process; length of what follows: the attempt.
_HEAD: Final = struct.Struct("=ddII")
_IDLE: Final = (0.0, 0.0, 0, 0)


class Marker:
    """The attempt under way, and until when it may take. Written by the child, read by its parent."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _SIZE)

    @contextlib.contextmanager
    def attempting(self, attempt: Attempt, seconds: float) -> Iterator[None]:
        """Note the attempt while the body runs."""
        said = pickle.dumps(attempt)
        self._memory[_HEAD.size : _HEAD.size + len(said)] = said
        _HEAD.pack_into(self._memory, 0, time.monotonic() + seconds, seconds_starved(), os.getpid(), len(said))
        try:
            yield
        finally:
            _HEAD.pack_into(self._memory, 0, *_IDLE)

    def attempt(self) -> Attempt | None:
        """Return the attempt under way, or ``None`` between two."""
        *_, length = _HEAD.unpack_from(self._memory)
        if not length:
            return None
        found: Attempt = pickle.loads(self._memory[_HEAD.size : _HEAD.size + length])
        return found

    def late_by(self) -> float:
        """Return for how many seconds it should have been done; negative while it has time left.

        Seconds in which it waited for a processor do not count.
        """
        until, starved_before, process, _ = _HEAD.unpack_from(self._memory)
        if not until or time.monotonic() < until:
            return -1.0
        return float(time.monotonic() - until - (seconds_starved(process) - starved_before))
