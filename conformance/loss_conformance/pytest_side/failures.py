"""What a failing item says, whatever made it fail."""

from __future__ import annotations

import textwrap

__all__ = ["LawBroken", "failure_text"]


class LawBroken(Exception):
    """A check failed.

    Attributes:
        block: the complete text.
        summary: the same in one line.
    """

    def __init__(self, block: str, summary: str) -> None:
        super().__init__(summary)
        self.block, self.summary = block, summary


def failure_text(nodeid: str, error: BaseException) -> tuple[str, str]:
    """Return (block, one line) for what an item raised: no frame of the runner, of pytest or of torch."""
    from loss_conformance.subject.protocol import CannotFeed

    if isinstance(error, LawBroken):
        return error.block, error.summary
    if isinstance(error, CannotFeed):
        said = "\n".join(part for part in (str(error), error.traceback) if part)
        return _error_block(nodeid, said), str(error).partition("\n")[0]
    own = f"loss-conformance itself failed, which says nothing about the loss: {type(error).__name__}: {error}"
    return _error_block(nodeid, f"{own}\nPlease report it with the output of --full-trace."), own.partition("\n")[0]


def _error_block(nodeid: str, text: str) -> str:
    return f"{nodeid} ERROR\n{textwrap.indent(text, '  ')}"
