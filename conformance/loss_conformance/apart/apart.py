"""Whether a loss gets a process of its own, and the engine either way."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import torch

from loss_conformance.apart.switch import IN_PROCESS
from loss_conformance.attempt import Answers
from loss_conformance.checks.registry import every_check
from loss_conformance.engine import Engine
from loss_conformance.guard import accelerator_here

__all__ = ["answering"]


def answering(make: Callable[[], Engine], name: str) -> Answers:
    """Return what answers for the engine ``make`` makes: that engine itself, or one in a child of this process.

    Raises:
        BrokenExtension: checks of another distribution cannot be loaded.
        TargetError, CannotFeed, ...: what ``make`` raises.
    """
    every_check()  # loads the checks of other distributions here once, rather than in every child
    if not _may_fork():
        return make()
    from loss_conformance.apart.engine_apart import EngineApart
    from loss_conformance.apart.process import UnfitChild

    try:
        return EngineApart(make, name)
    except UnfitChild:
        return make()


def _may_fork() -> bool:
    # A driver does not survive a fork, threads do not, and elsewhere than on Linux neither do the system's libraries.
    if not sys.platform.startswith("linux") or os.environ.get(IN_PROCESS):
        return False
    return not (_watched() or _distributed() or accelerator_here())


def _watched() -> bool:
    """Return whether a debugger, a profiler or a measurement of coverage would lose sight of the loss."""
    if sys.gettrace() is not None or sys.getprofile() is not None:
        return True
    monitoring = getattr(sys, "monitoring", None)
    return monitoring is not None and any(monitoring.get_tool(number) is not None for number in range(6))


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
