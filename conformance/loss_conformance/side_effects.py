"""What a call leaves behind besides its result: text, warnings, files."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

__all__ = ["SideEffects", "observed_side_effects"]


@dataclass
class SideEffects:
    """What happened beside the result of a call.

    Attributes:
        printed: text written to standard output or error.
        warned: warnings, as ``Category: message``.
        written: files opened for writing.
    """

    printed: str = ""
    warned: list[str] = field(default_factory=list)
    written: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return one line for each kind of effect."""
        said = []
        if self.printed:
            said.append(f"it prints {_first_line(self.printed)!r}")
        if self.warned:
            said.append(f"it warns {self.warned[0]!r}")
        if self.written:
            said.append(f"it writes the file {os.path.relpath(self.written[0])!r}")
        return said


@contextlib.contextmanager
def observed_side_effects() -> Iterator[SideEffects]:
    """Record what the body prints, warns and writes; nothing of it reaches the terminal."""
    effects = SideEffects()
    text = _Beginning()
    _install_audit_hook()
    with (
        contextlib.redirect_stdout(text),
        contextlib.redirect_stderr(text),
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        _watching.append(effects)
        try:
            yield effects
        finally:
            _watching.remove(effects)
    effects.printed = text.getvalue()
    effects.warned = [
        f"{w.category.__name__}: {_first_line(str(w.message))}" for w in caught if w.category is not ResourceWarning
    ]


class _Beginning(io.StringIO):
    """Keeps the beginning of what is written to it: a loss may print without end."""

    def write(self, text: str) -> int:
        if self.tell() < 1000:
            super().write(text[:1000])
        return len(text)


_watching: list[SideEffects] = []
_installed = False


def _install_audit_hook() -> None:
    # An audit hook cannot be removed again; it is installed once, and idle unless somebody watches.
    global _installed
    if not _installed:
        sys.addaudithook(_audit)
        _installed = True


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watching or event != "open":
        return
    path, mode, flags = (*arguments, None, None)[:3]
    writes = any(letter in mode for letter in "wax+") if isinstance(mode, str) else bool((flags or 0) & _WRITING)
    if writes and isinstance(path, str | bytes | os.PathLike) and not os.fsdecode(path).startswith("/dev/"):
        for effects in _watching:
            effects.written.append(os.path.abspath(os.fsdecode(path)))


_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def _first_line(text: str) -> str:
    line = text.strip().splitlines()[0] if text.strip() else text[:1]
    return line if len(line) <= 80 else line[:77] + "..."
