"""Property checks for training losses.

``check_loss`` and ``verify`` are the engine's doors outside pytest; names are imported when first used, because a
pytest run that names no loss must import neither torch nor hypothesis.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loss_conformance.checks.registry import Check, check
    from loss_conformance.doors import NonConformant, check_loss, conformance_checks, verify
    from loss_conformance.verdict import Failure, Report, Status, Verdict

_HOME = {
    "Check": "loss_conformance.checks.registry",
    "Failure": "loss_conformance.verdict",
    "NonConformant": "loss_conformance.doors",
    "Report": "loss_conformance.verdict",
    "Status": "loss_conformance.verdict",
    "Verdict": "loss_conformance.verdict",
    "check": "loss_conformance.checks.registry",
    "check_loss": "loss_conformance.doors",
    "conformance_checks": "loss_conformance.doors",
    "verify": "loss_conformance.doors",
}

__all__ = [
    "Check",
    "Failure",
    "NonConformant",
    "Report",
    "Status",
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
