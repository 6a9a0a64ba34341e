"""The run as one HTML file that needs nothing else."""

from __future__ import annotations

from html import escape
from typing import Final

from loss_conformance.report.record import Record
from loss_conformance.report.run import Run
from loss_conformance.report.summary import denominators

__all__ = ["html_report"]

_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>loss conformance</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; }}
td, th {{ text-align: left; vertical-align: top; padding: .2rem .8rem .2rem 0; }}
pre {{ background: #8881; padding: .8rem; overflow-x: auto; }}
.failed, .error, .blocked {{ color: #b3261e; }}
.advice {{ color: #8a5a00; }}
.passed {{ color: #1b6e3c; }}
</style>
</head>
<body>
<h1>Loss conformance</h1>
{targets}
</body>
</html>
"""


def html_report(run: Run) -> str:
    """Return the page."""
    parts = [part for target in run.targets for part in _target(run, target)]
    return _PAGE.format(targets="\n".join(parts))


def _target(run: Run, target: str) -> list[str]:
    records, notes = run.records_of(target), run.notes_of(target)
    if not records:
        return [f"<h2>{escape(target)}</h2>", "<p>No check ran.</p>"]
    return [
        f"<h2>{escape(target)}</h2>",
        f"<p>{escape(denominators(run, target))}</p>",
        *(f"<pre>{escape(record.block)}</pre>" for record in records if record.block),
        "<table>",
        "<tr><th>check</th><th>group</th><th>result</th><th>what must hold, or why it was not asked</th></tr>",
        *map(_row, records),
        "</table>",
        *_list("Contract facts", notes.facts),
        *_list("Warnings", notes.warnings),
        *_list("Run", notes.header),
    ]


def _row(record: Record) -> str:
    said = record.reason or record.statement
    kind = record.status.replace(" ", "-")
    cells = [record.check, record.group, record.status, said]
    return f'<tr class="{kind}">' + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"


def _list(title: str, lines: tuple[str, ...]) -> list[str]:
    return [f"<h3>{title}</h3>", f"<pre>{escape(chr(10).join(lines))}</pre>"] if lines else []
