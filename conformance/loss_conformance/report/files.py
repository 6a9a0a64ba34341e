"""The files of ``--loss-report``: one for machines, one for people."""

from __future__ import annotations

from pathlib import Path

from loss_conformance.report.html_report import html_report
from loss_conformance.report.json_report import json_report
from loss_conformance.report.run import Run
from loss_conformance.run_options import RunOptions

__all__ = ["write_reports"]


def write_reports(run: Run, options: RunOptions) -> Path:
    """Write ``report.json`` and ``report.html`` and return their directory."""
    directory = Path(options.root) / (options.report or ".")
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "report.json").write_text(json_report(run, options), encoding="utf-8")
    (directory / "report.html").write_text(html_report(run), encoding="utf-8")
    return directory
