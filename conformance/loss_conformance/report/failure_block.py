"""The block a person reads when a law is broken: what, where, why, and how to see it again."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Final

from loss_conformance.verdict import Failure

if TYPE_CHECKING:
    from loss_conformance.checks.registry import Check

__all__ = ["failure_block", "reason_block"]

_WIDTH: Final = 120
_FACT: Final = 16  # "smallest case   " under the law
_ADVICE: Final = 17  # "Likely cause     " beside it


def failure_block(
    target: str, check: Check, failure: Failure, *, ending: str = "FAILED", reproduce: tuple[str, ...] = ()
) -> str:
    """Return the block of one broken law, without a trailing newline.

    Args:
        ending: the word behind the id: how the check ended.
        reproduce: the lines to paste, the shortest first.
    """
    lines = [
        f"{target}::{check.name} {ending}",
        *_prose(failure.law or check.statement, "  "),
        *_fact("smallest case", failure.case),
        *_fact("changed", failure.changed),
        *_got_and_wanted(failure),
        *textwrap.indent(failure.traceback.rstrip(), "    ").splitlines(),
        *_advice("Likely cause", failure.cause or check.cause),
        *_advice("Fix", check.fix),
        *_advice("If it is meant", failure.declare),
        *_advice("Seen in", check.seen_in),
        *_rows("  ", "Reproduce", reproduce, _ADVICE),
    ]
    return "\n".join(line.rstrip() for line in lines)


def reason_block(target: str, check: Check, reason: str, ending: str, reproduce: tuple[str, ...] = ()) -> str:
    """Return the block of a check that fails although no law is broken, such as one that was exempt and holds."""
    lines = [
        f"{target}::{check.name} {ending}",
        *(row for line in reason.splitlines() for row in _prose(line, "  ")),
        *_rows("  ", "Reproduce", reproduce, _ADVICE),
    ]
    return "\n".join(lines)


def _got_and_wanted(failure: Failure) -> list[str]:
    wanted = " ± ".join(part for part in (failure.wanted, failure.tolerance) if part)
    if not failure.got or not wanted:
        return [*_fact("got", failure.got), *_fact("wanted", wanted)]
    line = f"    got  {failure.got}     wanted {wanted}"
    if len(line) <= _WIDTH and "\n" not in line:
        return [line]
    return [*_fact("got", failure.got), *_fact("wanted", wanted)]


def _fact(label: str, text: str) -> list[str]:
    return _rows("    ", label, text.splitlines(), _FACT)


def _advice(label: str, text: str) -> list[str]:
    rows = [row for line in text.splitlines() for row in _prose(line, "", _WIDTH - 2 - _ADVICE)]
    return _rows("  ", label, rows, _ADVICE)


def _rows(indent: str, label: str, rows: list[str] | tuple[str, ...], width: int) -> list[str]:
    labels = [label, *[""] * len(rows)]
    return [f"{indent}{labels[i]:<{width}}{row}" for i, row in enumerate(rows)]


def _prose(text: str, indent: str, width: int = _WIDTH) -> list[str]:
    return textwrap.wrap(
        text, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
