"""How a process ended and where it was, in words."""

from __future__ import annotations

import os
import re
import signal
from itertools import dropwhile, takewhile
from pathlib import Path
from traceback import FrameSummary
from typing import Final

from loss_conformance.subject.user_frames import user_frames

__all__ = ["how_it_ended", "where_it_was"]

_FRAME: Final = re.compile(r'^  File "(.+)", line (\d+) in (.+)$', re.MULTILINE)
_CHILD: Final = str(Path(__file__).with_name("child.py"))
_MOST: Final = 65536


def how_it_ended(status: int) -> str:
    """Return how a process ended, from its wait status."""
    if not os.WIFSIGNALED(status):
        return f"it ended the process, with exit status {os.waitstatus_to_exitcode(status)}"
    number = os.WTERMSIG(status)
    name = signal.Signals(number).name if number in signal.valid_signals() else f"signal {number}"
    return f"the process died: {name}{_MEANING.get(name, '')}"


_MEANING: Final = {
    "SIGABRT": " (abort)",
    "SIGSEGV": " (invalid memory access)",
    "SIGBUS": " (invalid memory access)",
    "SIGFPE": " (division by zero in native code)",
    "SIGILL": " (an instruction this processor does not have)",
    "SIGKILL": " (killed, usually because memory ran out)",
}


def where_it_was(trace: int) -> str:
    """Return the user's own frames of the stack that ``faulthandler`` wrote, formatted like a traceback."""
    text = os.pread(trace, _MOST, 0).decode(errors="replace")
    latest_first = [FrameSummary(file, int(line), name) for file, line, name in _FRAME.findall(text)]
    inside = dropwhile(_in_child, latest_first)  # where os._exit is watched
    own = list(
        takewhile(lambda frame: not _in_child(frame), inside)
    )  # beyond our loop come the frames of whoever asked
    return "".join(user_frames(reversed(own))).rstrip("\n")


def _in_child(frame: FrameSummary) -> bool:
    return frame.filename == _CHILD
