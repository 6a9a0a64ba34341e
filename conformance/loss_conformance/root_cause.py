"""Which failed prerequisite stands behind a blocked check."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loss_conformance.verdict import Status, Verdict

if TYPE_CHECKING:
    from loss_conformance.attempt import Answers
    from loss_conformance.checks.registry import Check

__all__ = ["root_cause"]


def root_cause(engine: Answers, check: Check) -> tuple[Check, Verdict] | None:
    """Return the failed check that ``check`` waits for, however many steps away, or ``None`` when none failed."""
    known = {each.name: each for each in engine.checks()}
    for required in [known[name] for name in check.requires if name in known]:
        verdict = engine.run(required.name)
        if verdict.status is Status.FAILED:
            return required, verdict
        if verdict.status is Status.BLOCKED:
            return root_cause(engine, required)
    return None
