"""The table of checks, for the terminal and for documents; made from the registry and from nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from loss_conformance.checks.registry import Check, every_check

__all__ = ["explanation", "markdown_table", "text_table"]


def text_table(checks: Sequence[Check] | None = None) -> str:
    """Return one line for each check: name, group, severity, statement."""
    rows = [("check", "group", "severity", "what must hold"), *map(_row, every_check() if checks is None else checks)]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join("  ".join([*(f"{row[i]:<{widths[i]}}" for i in range(3)), row[3]]) for row in rows)


def markdown_table(checks: Sequence[Check] | None = None) -> str:
    """Return the same as a Markdown table."""
    rows = map(_row, every_check() if checks is None else checks)
    head = ["| check | group | severity | what must hold |", "|---|---|---|---|"]
    cells = (
        [f"`{name}`", f"`{group}`", severity, statement.replace("|", "\\|")]
        for name, group, severity, statement in rows
    )
    return "\n".join([*head, *(f"| {' | '.join(row)} |" for row in cells)])


def explanation(check: Check) -> str:
    """Return everything the registry says about one check."""
    facts = {
        "group": check.group,
        "severity": check.severity,
        "profile": f"{check.cost} and up",
        "tried on": ", ".join(check.over),
        "needs": ", ".join(check.requires),
        "why": check.why,
        "likely cause": check.cause,
        "fix": check.fix,
        "seen in": check.seen_in,
        "from": "" if check.origin.startswith("loss_conformance.") else check.origin,
    }
    lines = [f"  {name:<14}{text}" for name, text in facts.items() if text]
    return "\n".join([check.name, f"  {check.statement}", *lines])


def _row(check: Check) -> tuple[str, str, str, str]:
    return check.name, check.group, str(check.severity), check.statement
