"""Draws that depend on the seed alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from hypothesis.internal.conjecture import providers

__all__ = ["hermetic_draws"]


@contextlib.contextmanager
def hermetic_draws() -> Iterator[None]:
    """Keep Hypothesis from mixing the numbers it finds in the user's source files into what it draws.

    With them, editing a loss, or only importing another module, changes the cases of the same seed; and what was found
    is kept in a folder ``.hypothesis`` of the directory the user happens to be in. There is no public switch.
    """
    internals: Any = providers
    if not hasattr(internals, "_get_local_constants"):  # Hypothesis before 6.131 does not look
        yield
        return
    kept = internals._get_local_constants, internals.CONSTANTS_CACHE
    internals._get_local_constants, internals.CONSTANTS_CACHE = internals.Constants, {}
    try:
        yield
    finally:
        internals._get_local_constants, internals.CONSTANTS_CACHE = kept
