"""The run as JSON."""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any, Final

from loss_conformance.report.run import Run
from loss_conformance.run_options import RunOptions

__all__ = ["FORMAT", "json_report"]

FORMAT: Final = 1
"""Rises when a key changes its meaning or goes away; new keys may come at any time."""


def json_report(run: Run, options: RunOptions) -> str:
    """Return the report: the options that decide verdicts, and for each target its counts, notes and records."""
    report = {
        "format": FORMAT,
        "version": version("loss-conformance"),
        "options": {**options.settings(), "profile": options.profile, "device": options.device},
        "problems": run.problems(),
        "targets": [_target(run, target) for target in run.targets],
    }
    return json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _target(run: Run, target: str) -> dict[str, Any]:
    records = run.records_of(target)
    return {
        "target": target,
        "complete": run.complete(target),
        "counts": dict(run.counts(target)),
        **run.notes_of(target).plain(),
        "checks": [{name: value for name, value in record.plain().items() if name != "target"} for record in records],
    }
