"""The table of reference losses for documents; made from the registry and from nothing else."""

from __future__ import annotations

import inspect

import loss_reference
from loss_reference import LossFunction

__all__ = ["markdown_loss_table"]


def markdown_loss_table() -> str:
    """Return a Markdown table of every registered loss: names, class, family and the first line of its docstring."""
    rows = [
        f"| {', '.join(f'`{name}`' for name in names)} | `{cls.__name__}` | {cls.contract.family or ''} | {_formula(cls)} |"
        for cls, names in _by_class().items()
    ]
    return "\n".join(["| name | class | family | what it is |", "|---|---|---|---|", *rows])


def _by_class() -> dict[type[LossFunction], list[str]]:
    found: dict[type[LossFunction], list[str]] = {}
    # Only this package's own: a test or an example may have registered others.
    for name, cls in loss_reference.registry.registry.items():
        if cls.__module__.startswith("loss_reference."):
            found.setdefault(cls, []).append(name)
    return found


def _formula(cls: type) -> str:
    return (
        (inspect.getdoc(cls) or "").split("\n\n")[0].split(". ")[0].replace("\n", " ").replace("|", "\\|").rstrip(".")
    )
