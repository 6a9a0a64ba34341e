"""Settings that nothing in the code looks at."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor, nn

from loss_conformance.engine import Engine
from loss_conformance.subject.load import load_subject
from loss_conformance.verdict import Status


class Held(nn.Module):
    """Keeps both of its settings, and reads one of them."""

    def __init__(self, scale: float = 1.0, margin: float = 0.5) -> None:
        super().__init__()
        self.scale = scale
        self.margin = margin

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return self.scale * (input - target).square().mean()


class HandedOn(Held):
    """Its base class reads what it hands on."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__(scale=scale)


class ByName(Held):
    """Reads its settings by name."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return sum(float(getattr(self, name)) for name in ("scale", "margin")) * (input - target).square().mean()


def used(input: Tensor, target: Tensor, scale: float = 1.0) -> Tensor:
    return scale * (input - target).square().mean()


def unused(input: Tensor, target: Tensor, scale: float = 1.0, size: int = 64) -> Tensor:
    return scale * (input - target).square().mean()


@pytest.mark.parametrize(
    ("loss", "unread"), [(Held, "margin"), (HandedOn, None), (ByName, None), (used, None), (unused, "size")]
)
def test_what_is_held_and_never_read_is_named(loss: Any, unread: str | None) -> None:
    verdict = Engine(load_subject(loss), profile="quick", seed=0).run("settings_are_read")
    if unread is None:
        assert verdict.status is Status.PASSED
    else:
        assert verdict.status is Status.ADVICE
        assert verdict.failure is not None
        assert verdict.failure.got == f"{unread} is never read"
