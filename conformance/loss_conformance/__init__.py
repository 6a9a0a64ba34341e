"""Property checks for training losses.

``check_loss`` and ``verify`` are the engine's doors outside pytest; names are imported when first used, because a
pytest run that names no loss must import neither torch nor hypothesis.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loss_conformance.checks.registry import Check, Cost, Severity, check
    from loss_conformance.doors import NonConformant, check_loss, conformance_checks, verify
    from loss_conformance.trial import Broken, NotExercised, Trial
    from loss_conformance.verdict import Failure, Report, Status, Verdict

_HOME = {
    "Broken": "loss_conformance.trial",
    "Check": "loss_conformance.checks.registry",
    "Cost": "loss_conformance.checks.registry",
    "Failure": "loss_conformance.verdict",
    "NonConformant": "loss_conformance.doors",
    "NotExercised": "loss_conformance.trial",
    "Report": "loss_conformance.verdict",
    "Severity": "loss_conformance.checks.registry",
    "Status": "loss_conformance.verdict",
    "Trial": "loss_conformance.trial",
    "Verdict": "loss_conformance.verdict",
    "check": "loss_conformance.checks.registry",
    "check_loss": "loss_conformance.doors",
    "conformance_checks": "loss_conformance.doors",
    "verify": "loss_conformance.doors",
}

__all__ = [
    "Broken",
    "Check",
    "Cost",
    "Failure",
    "NonConformant",
    "NotExercised",
    "Report",
    "Severity",
    "Status",
    "Trial",
    "Verdict",
    "check",
    "check_loss",
    "conformance_checks",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'loss_conformance' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
