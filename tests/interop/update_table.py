"""Writes ``docs/losses_and_libraries.md`` from the library table: ``python -m tests.interop.update_table``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from loss_reference import registry
from loss_reference.contract import FAMILIES
from tests.interop.advantage_table import ESTIMATES
from tests.interop.comparison import Row
from tests.interop.formula_table import READ_AT, READINGS, Reading
from tests.interop.library_table import RELEASES, TABLE

DOCUMENT: Final = Path(__file__).resolve().parents[2] / "docs" / "losses_and_libraries.md"

INTRODUCTION: Final = """\
# Losses and libraries

What the losses of `loss_reference` give beside those of other libraries. This page is generated: the rows are data in
`tests/interop`, `python -m tests.interop.update_table` writes it, and a test refuses a version that is out of date.

The **first part is measured**. Every row stands for a comparison that runs as a test where the library is installed: both
losses receive the same three random draws, with masked tokens and rows of different lengths, and their values *and*
gradients are compared, in float64 where the library computes in it and in float32 elsewhere. The bound is a rounding
error: 16 eps times the square root of how many numbers are summed, and more only where the library itself adds something,
such as 1e-8 to a divisor.

- *same*: equal within that bound.
- *same with* `option=...`: equal with that option of our loss, and unequal without it; both are tested.
- *differs*: unequal as it is, and equal after the conversion that the row names; both are tested, the former where our
  loss can take the same input at all.

The **second part is read**. What it names cannot run where the tests do; formulas were read, and nothing was computed
but where a row says so.
"""
INPUTS: Final = """\
## Libraries compared with

How many of the rows are the same, the same with an option of ours, or differ; and what was done to give both the same input.
"""
ADVANTAGES: Final = """\
### Advantage estimators

Functions of `loss_reference.policy_gradient` beside those that fill the same field elsewhere; numbers alone, there is no
gradient. One of the answers is alone in its group, and one has a token that the policy did not choose.
"""
READ: Final = """\
## By reading their formula

Not run by the tests. The option is the config of our loss that gives their number if they compute what their source
says; defaults of theirs that are not ours are part of it.
"""


def cell(text: str) -> str:
    """Return text that does not end a table's cell."""
    return text.replace("|", "\\|")


def table(heads: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table."""
    heads = list(heads)
    rows = [heads, ["---"] * len(heads), *([cell(text) for text in line] for line in lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def kind(row: Row) -> str:
    """Return which of the three things a row says."""
    return "differs" if row.difference else "same with an option" if row.option else "same"


def libraries() -> str:
    counts = {library: Counter(kind(row) for row in TABLE if row.library == library) for library in RELEASES}
    heads = ("library", "release", "rows", "same", "with an option", "differs", "inputs")
    lines = (
        (
            f"`{library}`",
            f"{release.distribution} {release.version}",
            str(counts[library].total()),
            *(str(counts[library][name]) for name in ("same", "same with an option", "differs")),
            release.inputs,
        )
        for library, release in RELEASES.items()
    )
    total = f"{len(TABLE)} comparisons of {len({row.loss for row in TABLE})} losses with {len(RELEASES)} libraries.\n"
    return f"{INPUTS}\n{total}\n{table(heads, lines)}"


def family_of(loss: str) -> str:
    """Return the family under which a loss is listed."""
    return registry.get(loss).__module__.split(".")[1]


def measured(family: str) -> str:
    order = list(RELEASES)
    rows = sorted(
        (row for row in TABLE if family_of(row.loss) == family), key=lambda r: (r.loss, order.index(r.library))
    )
    lines = ((f"`{row.loss}`", f"`{row.library}`", f"`{row.counterpart}`", row.verdict) for row in rows)
    title = family.replace("_", " ").capitalize()
    return f"### {title}\n\n{table(('loss', 'library', 'there', 'compared'), lines)}" if rows else ""


def advantages() -> str:
    lines = ((f"`{e.function}`", f"`{e.library}`", f"`{e.counterpart}`", e.verdict) for e in ESTIMATES)
    return f"{ADVANTAGES}\n{table(('function', 'library', 'there', 'compared'), lines)}"


def options(config: Mapping[str, Any]) -> str:
    return ", ".join(f"`{name}={value!r}`".replace("'", '"') for name, value in config.items())


def told(reading: Reading) -> str:
    """Return what the second part says of a formula."""
    given = options(reading.option)
    said = f"differs: {reading.difference}" if reading.difference else "same"
    said += f" (otherwise with {given})" if given and reading.difference else f" with {given}" if given else ""
    return f"{said}; {reading.note}" if reading.note else said


def read() -> str:
    order = list(READ_AT)
    rows = sorted(READINGS, key=lambda r: (order.index(r.library), r.loss))
    lines = ((f"`{r.loss}`", r.library, r.counterpart, told(r)) for r in rows)
    where = "\n".join(f"- {library}: {revision}" for library, revision in READ_AT.items())
    return f"{READ}\n{where}\n\n{table(('loss', 'library', 'there', 'read'), lines)}"


def without_a_row() -> str:
    """Return which losses nothing was compared with, each by its first name."""
    classes = {cls for cls in registry.registry.values() if cls.__module__.startswith("loss_reference.")}
    first_names = {cls: next(n for n, c in registry.registry.items() if c is cls) for cls in classes}
    compared = {registry.get(row.loss) for row in TABLE}
    missing = sorted(name for cls, name in first_names.items() if cls not in compared)
    names = ", ".join(f"`{name}`" for name in missing)
    why = "No installed library computes these, or they are made of other losses; some were read, see below"
    return f"### Not compared\n\n{why}: {names}."


def document() -> str:
    """Return the whole page."""
    parts = [measured(family) for family in FAMILIES]
    body = "\n\n".join(part for part in parts if part)
    sections = (f"## Compared by running both\n\n{body}", without_a_row(), advantages(), read())
    return "\n\n".join((f"{INTRODUCTION}\n{libraries()}", *sections)) + "\n"


if __name__ == "__main__":
    DOCUMENT.parent.mkdir(exist_ok=True)
    DOCUMENT.write_text(document())
