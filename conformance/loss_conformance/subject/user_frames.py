"""The part of a traceback that belongs to the user: no frame of this package, of torch, of Python, or of the runner."""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Iterable
from pathlib import Path

import loss_reference

__all__ = ["user_frames", "user_traceback"]

_OURS = Path(__file__).resolve().parent.parent
_REFERENCE = Path(loss_reference.__file__).resolve().parent
_PYTHON = Path(sysconfig.get_path("stdlib")).resolve()


def user_traceback(error: BaseException) -> str:
    """Return the formatted frames of ``error`` that lie in the user's own files, and the error itself."""
    lines = user_frames(traceback.extract_tb(error.__traceback__))
    return "".join([*lines, *traceback.format_exception_only(error)]).rstrip("\n")


def user_frames(frames: Iterable[traceback.FrameSummary]) -> list[str]:
    """Return those of ``frames`` that lie in the user's own files, formatted."""
    foreign = [frame for frame in frames if not _is_library(frame.filename)]
    own = [frame for frame in foreign if _REFERENCE not in Path(frame.filename).resolve().parents]
    # A fault of a reference loss itself has no other frames.
    return traceback.format_list(own or foreign)


def _is_library(filename: str) -> bool:
    if filename.startswith("<frozen"):
        return True
    path = Path(filename).resolve()
    return _OURS in path.parents or _PYTHON in path.parents or "site-packages" in path.parts
