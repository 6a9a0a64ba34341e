"""The engine's doors outside pytest: functions, and a decorator for people's own test files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from loss_conformance.engine import Engine
from loss_conformance.subject.load import load_subject
from loss_conformance.verdict import Report, Status

__all__ = ["check_loss"]


def check_loss(
    loss: Any,
    *,
    checks: tuple[str, ...] = (),
    config: Mapping[str, Any] | str | None = None,
    contract: Any = None,
    profile: str = "standard",
    seed: int = 0,
    device: str = "auto",
    baseline: Any = None,
) -> Report:
    engine = Engine(
        load_subject(loss, config=config, contract=contract),
        profile=profile,
        seed=seed,
        device=device,
        baseline=baseline,
    )
    return engine.report()
