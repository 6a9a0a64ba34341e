"""The side of a pytest-xdist worker: it sends what the reports of single items cannot carry."""

from __future__ import annotations

from typing import Any

from loss_conformance.pytest_side.collecting import Collecting

__all__ = ["KEY", "Worker"]

KEY = "loss_conformance"


class Worker:
    """Puts the notes about each target, and a usage error, into the output of the worker."""

    def __init__(self, config: Any, collecting: Collecting) -> None:
        self.config = config
        self.collecting = collecting

    def pytest_sessionfinish(self) -> None:
        """Fill in the output before it is sent."""
        targets = self.collecting.targets if not self.collecting.usage_error else []
        self.config.workeroutput[KEY] = {
            "usage_error": self.collecting.usage_error,
            "notes": {target.target: target.notes().plain() for target in targets},
        }
