"""One check of one loss, run again outside pytest: FIXED, FAILED or ERROR."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from loss_conformance.report.failing import Showing
from loss_conformance.run_options import RunOptions
from loss_conformance.subject.protocol import CannotFeed
from loss_conformance.subject.subject import TargetError
from loss_conformance.verdict import Status, Verdict

__all__ = ["replay"]

FIXED: Final = 0
FAILED: Final = 1
ERROR: Final = 2


def replay(
    target: str, check: str, *, root: str | Path = ".", out: Callable[[str], object] = print, **settings: Any
) -> int:
    """Run ``check`` on ``target`` again and say how it ended.

    Args:
        root: directory the target is looked up from.
        out: where the answer goes, a line or block at a time.
        settings: ``seed``, ``profile``, ``config`` and whatever else ``RunOptions`` knows.

    Returns:
        0 when the law holds (FIXED), 1 when it is broken, 2 when it cannot be run (ERROR).
    """
    options = RunOptions(**settings, root=str(root))
    try:
        engine = options.engine(target)
        found = next((each for each in engine.checks() if each.name == check), None)
        if found is None:
            out(f"ERROR {target}: the profile {options.profile!r} has no check {check!r}")
            return ERROR
        verdict = engine.run(check)
    except (TargetError, CannotFeed) as error:
        out(f"ERROR {target}::{check}: {error}")
        if error.traceback:
            out(error.traceback)
        return ERROR
    return _said(f"{target}::{check}", verdict, Showing(target, options).block(found, verdict), out)


def _said(name: str, verdict: Verdict, block: str, out: Callable[[str], object]) -> int:
    if verdict.status is Status.PASSED:
        out(f"FIXED {name}")
        return FIXED
    out(block or f"ERROR {name}: {verdict.status}, {verdict.reason}")
    return FAILED if block else ERROR
