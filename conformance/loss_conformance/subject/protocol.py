"""What a calling protocol must answer: how to find the inputs of a loss, and how to call it with a case."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from loss_conformance.cases.case import Case
from loss_conformance.cases.slot import Schema
from loss_conformance.torch_functions import functions_kept
from loss_reference.contract import Contract

__all__ = ["CallingProtocol", "CannotFeed"]


class CannotFeed(Exception):
    """No inputs could be found that the loss accepts. The message is for the user, complete and final."""

    def __init__(self, message: str, traceback: str = "") -> None:
        super().__init__(message)
        self.traceback = traceback


class CallingProtocol(ABC):
    """One way in which losses are called.

    Attributes:
        name: as the report prints it.
        foreign: the loss never promised this project's conventions, so the strictest laws are advice to it.
    """

    name: ClassVar[str]
    foreign: ClassVar[bool] = True

    @abstractmethod
    def routes(self, loss: Any, contract: Contract) -> tuple[Schema, ...]:
        """Return every set of inputs the loss accepts, the one it prefers first.

        Raises:
            CannotFeed: there is none. Says what the loss asked for and the line to write.
        """

    def call(self, loss: Any, case: Case) -> Any:
        """Call the loss with the tensors of ``case`` and return what it returns.

        Functions of torch that it replaced are put back at once: what follows uses them itself.
        """
        with functions_kept():
            return self.hand_over(loss, case)

    @abstractmethod
    def hand_over(self, loss: Any, case: Case) -> Any:
        """Call the loss with the tensors of ``case``."""
