"""Did you mean: the known name closest to what somebody typed."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["nearest_name"]


def nearest_name(given: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"``, or the empty string when nothing known is close to ``given``."""
    lowered = {name.lower(): name for name in known}
    close = get_close_matches(given.lower(), lowered, n=1, cutoff=0.6)
    return f"; did you mean {lowered[close[0]]!r}?" if close else ""
