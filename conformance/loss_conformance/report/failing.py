"""The failure block of one target: rendered with the lines that reproduce it."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from loss_conformance.report.failure_block import failure_block, reason_block
from loss_conformance.report.reproducer import write_reproducer
from loss_conformance.run_options import RunOptions
from loss_conformance.verdict import Status, Verdict

if TYPE_CHECKING:
    from loss_conformance.checks.registry import Check

__all__ = ["Showing"]


class Showing:
    """How the failures of one target are shown.

    Args:
        target: the loss as it was typed.
        options: what was asked for.
        alone: no other target is checked in the same run, so files need not name it.
    """

    def __init__(self, target: str, options: RunOptions, alone: bool = True) -> None:
        self.target, self.options, self.alone = target, options, alone

    def block(self, check: Check, verdict: Verdict) -> str:
        """Return the block of ``verdict``, and write the script that replays it; empty when nothing is broken."""
        ending = verdict.status.upper()
        if verdict.failure is not None:
            reproduce = self._reproduce(check, verdict)
            return failure_block(self.target, check, verdict.failure, ending=ending, reproduce=reproduce)
        if verdict.status is Status.FAILED:
            return reason_block(self.target, check, verdict.reason, ending, self._reproduce(check, verdict))
        return ""

    def _reproduce(self, check: Check, verdict: Verdict) -> tuple[str, ...]:
        seed = verdict.failure.seed if verdict.failure else None
        command = self.options.command([self.target], check.name, seed)
        if verdict.status is not Status.FAILED:
            return (command,)
        script = write_reproducer(self.target, check, self.options, seed, named=not self.alone)
        return (command, f"python {shlex.quote(_relative(script, self.options.root))}") if script else (command,)


def _relative(script: Path, root: str) -> str:
    path = os.path.relpath(script, root)
    return str(script) if path.startswith("..") else path
