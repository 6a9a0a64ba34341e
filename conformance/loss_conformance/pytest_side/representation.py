"""A finished text as the kind of failure pytest prints, summarises in one line, and sends between processes."""

from __future__ import annotations

import os

# Not public, but the one way to give a failure both a text of its own and a line in the short summary, and the only
# classes pytest-xdist sends whole.
from _pytest._code.code import ReprExceptionInfo, ReprFileLocation, ReprTracebackNative, TerminalRepr

__all__ = ["TerminalRepr", "represent"]


def represent(text: str, summary: str, path: os.PathLike[str] | str) -> TerminalRepr:
    """Return a failure that reads ``text`` in full and ``summary`` in the short summary."""
    lines = [line + "\n" for line in text.splitlines()]
    return ReprExceptionInfo(
        reprtraceback=ReprTracebackNative(lines), reprcrash=ReprFileLocation(str(path), 0, summary)
    )
