"""What a pytest run was asked to check."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest

from loss_conformance.run_options import RunOptions

__all__ = ["Request", "request_of"]


@dataclass(frozen=True)
class Request:
    """What this run was asked to check.

    Attributes:
        targets: each loss once, in the order given.
        repeated: those that were given more than once.
        options: everything else that was asked for.
        is_worker: this process is a worker of pytest-xdist, and another one reports.
    """

    targets: tuple[str, ...]
    repeated: tuple[str, ...]
    options: RunOptions
    is_worker: bool


def request_of(config: pytest.Config, typed: list[str]) -> Request:
    """Return the request to check the losses ``typed``, with the options of ``config``."""
    counts = Counter(target.strip() for target in typed)
    return Request(
        targets=tuple(counts),
        repeated=tuple(target for target, times in counts.items() if times > 1),
        options=RunOptions.read(config.option, str(config.invocation_params.dir), "loss_"),
        is_worker=hasattr(config, "workerinput"),
    )
