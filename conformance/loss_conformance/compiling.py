"""A loss as torch.compile makes it, called like the loss itself. Importing torch's compiler takes a while: only in here."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["Compiled", "compiled", "graph_breaks"]


class Compiled:
    """A loss whose call and ``compute_loss`` are compiled; anything else is the loss's own."""

    def __init__(self, loss: Any, backend: str) -> None:
        self._loss = loss
        self._call = torch.compile(_plain(loss), backend=backend)
        own = getattr(loss, "compute_loss", None)
        if own is not None:
            self.compute_loss = torch.compile(own, backend=backend)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._call(*arguments, **named)

    def __getattr__(self, name: str) -> Any:
        if name == "_loss":  # not set yet, while a copy is being made
            raise AttributeError(name)
        return getattr(self._loss, name)


def _plain(loss: Any) -> Callable[..., Any]:
    """Return the loss as a function: compiling the object itself would leave its mark on it."""

    def call(*arguments: Any, **named: Any) -> Any:
        return loss(*arguments, **named)

    return call


@contextmanager
def compiled(loss: Any, backend: str) -> Iterator[Compiled]:
    """Yield the compiled loss; afterwards the compiler has forgotten it."""
    import torch._dynamo
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    talk = logging.getLogger("torch._dynamo")
    level = talk.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own, which a strict project turns into errors
        talk.setLevel(logging.CRITICAL)  # it prints every graph break, which the report says in one line
        try:
            yield Compiled(loss, backend)
        finally:
            talk.setLevel(level)
            torch._dynamo.reset()


def graph_breaks() -> list[str]:
    """Return the reasons for which the last compilation was cut into pieces."""
    from torch._dynamo.utils import counters

    return [str(reason).splitlines()[0] for reason in counters["graph_break"]]
