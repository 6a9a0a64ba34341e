"""What the child is doing, in memory its parent can still read when the child is no more."""

from __future__ import annotations

import contextlib
import mmap
import pickle
import struct
import time
from collections.abc import Iterator
from typing import Final

from loss_conformance.attempt import Attempt

__all__ = ["Marker"]

_SIZE: Final = 8192
_HEAD: Final = struct.Struct("=dI")  # when it must be done by, length of what follows: the attempt, pickled


class Marker:
    """The attempt under way, and until when it may take. Written by the child, read by its parent."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _SIZE)

    @contextlib.contextmanager
    def attempting(self, attempt: Attempt, seconds: float) -> Iterator[None]:
        """Note the attempt while the body runs."""
        said = pickle.dumps(attempt)
        self._memory[_HEAD.size : _HEAD.size + len(said)] = said
        _HEAD.pack_into(self._memory, 0, time.monotonic() + seconds, len(said))
        try:
            yield
        finally:
            _HEAD.pack_into(self._memory, 0, 0.0, 0)

    def attempt(self) -> Attempt | None:
        """Return the attempt under way, or ``None`` between two."""
        _, length = _HEAD.unpack_from(self._memory)
        if not length:
            return None
        found: Attempt = pickle.loads(self._memory[_HEAD.size : _HEAD.size + length])
        return found

    def late_by(self) -> float:
        """Return for how many seconds it should have been done; negative while it has time left."""
        until, _ = _HEAD.unpack_from(self._memory)
        return time.monotonic() - until if until else -1.0
