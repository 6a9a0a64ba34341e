"""What is being tested: a loss object, how it is called, and how to make another one with other settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from loss_conformance.subject.protocol import CallingProtocol
from loss_reference.contract import Contract

__all__ = ["Subject", "TargetError"]


class TargetError(Exception):
    """A target cannot be loaded or constructed. The message is for the user, complete and final.

    Attributes:
        traceback: the user's own traceback, when their code raised.
    """

    def __init__(self, message: str, traceback: str = "") -> None:
        super().__init__(message)
        self.traceback = traceback


@dataclass(frozen=True)
class Subject:
    """One loss under test.

    Attributes:
        target: as the user wrote it, ``"mymodule.MyLoss"``; ids and reproduce lines quote it.
        loss: the object itself.
        protocol: how it is called.
        contract: a contract given beside the loss (``--loss-contract``), or ``None``.
        settings: constructor settings found by watching what the constructor reads, or the numeric defaults of a
            function, with the values in force.
        rebuild: returns another loss of the same kind with some settings changed, raising what the user's code raises;
            ``None`` for instances.
        config: the constructor config in force.
        assumed: settings a function demands and nobody gave, with the usual value they have here.
    """

    target: str
    loss: Any
    protocol: CallingProtocol
    contract: Contract | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    rebuild: Callable[[Mapping[str, Any]], Any] | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    assumed: Mapping[str, Any] = field(default_factory=dict)
