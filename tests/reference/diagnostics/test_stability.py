from __future__ import annotations

import math
import random
from collections.abc import Iterable
from typing import Any

import pytest
import torch

from loss_reference import LossStabilityMonitor, Stability


class GuideMonitor:
    """The rule of the guide, to compare the literal mode with."""

    def __init__(self, window_size: int = 100) -> None:
        self.history: list[float] = []
        self.window_size = window_size

    def update(self, loss: torch.Tensor) -> None:
        self.history = [*self.history, loss.item()][-self.window_size :]

    def stable(self) -> bool:
        if len(self.history) < 10:
            return True
        recent = torch.tensor(self.history[-10:])
        return bool(torch.std(recent) / torch.mean(recent) < 0.5)


def watched(values: Iterable[float], **kwargs: Any) -> Stability:
    monitor = LossStabilityMonitor(**kwargs)
    for value in values:
        monitor.update(value)
    return monitor.check_stability()


def noise(n: int, mean: float, spread: float) -> list[float]:
    generator = random.Random(0)
    return [generator.gauss(mean, spread) for _ in range(n)]


STEADY = {
    "constant": [0.7] * 50,
    "constant zero": [0.0] * 50,
    "constant negative": [-0.7] * 50,
    "quick decay": [1.2**-t for t in range(100)],
    "slow decay": [1 / (1 + 0.1 * t) for t in range(100)],
    "mild noise": noise(100, 1.0, 0.2),
    "mild noise below 0": noise(100, -1.0, 0.2),
    "an improving reward": [-0.01 * t for t in range(100)],
}
UNSTEADY = {
    "smooth growth": ([1.15**t for t in range(10)], "rising"),
    "long growth": ([1.15**t for t in range(100)], "rising"),
    "strong noise": (noise(100, 1.0, 0.9), "scattering"),
    "strong noise below 0": (noise(100, -1.0, 0.9), "scattering"),
    "one spike": ([1.0] * 20 + [100.0] + [1.0] * 29, "scattering"),
    "nan": ([1.0, 1.0, math.nan, 1.0], "a loss in the window is nan"),
    "inf": ([1.0, math.inf], "a loss in the window is inf"),
}


@pytest.mark.parametrize("name", STEADY)
def test_stable(name: str) -> None:
    verdict = watched(STEADY[name])
    assert verdict
    assert verdict.reason.startswith("steady: rise ")


@pytest.mark.parametrize("name", UNSTEADY)
def test_unstable(name: str) -> None:
    values, reason = UNSTEADY[name]
    verdict = watched(values)
    assert not verdict
    assert verdict.reason.startswith(reason)


def test_scatter_is_the_coefficient_of_variation_of_noise() -> None:
    assert watched(noise(5000, 1.0, 0.3), window_size=5000).measure == pytest.approx(0.3, rel=0.05)


def test_a_floor_judges_noise_around_zero() -> None:
    values = noise(100, 0.0, 0.1)
    assert not watched(values)
    assert watched(values, floor=1.0)


def test_reasons() -> None:
    assert watched([1.0] * 3) == Stability(True, "too early to tell: 3 of 10 losses")
    assert watched([1.0] * 3, window_size=4).reason == "too early to tell: 3 of 4 losses"
    assert watched([1.0] * 10).reason == "steady: rise 0%, scatter 0% of the level"
    assert watched([1.0] * 5 + [3.0] * 5).reason == "rising: the later half is 100% of the level above the earlier half"
    assert watched([1.0, 0.0] * 5).reason == "scattering: the noise from step to step is 177% of the level"


def test_the_window_forgets() -> None:
    monitor = LossStabilityMonitor(window_size=10)
    for value in [math.nan] + [1.0] * 10:
        monitor.update(value)
    assert list(monitor.loss_history) == [1.0] * 10
    assert monitor.check_stability()


def test_small_windows_give_a_verdict() -> None:
    assert not watched([1.0, 3.0, 9.0], window_size=3)


@pytest.mark.parametrize(
    ("values", "literal", "robust"),
    [
        ([-1.0, -3.0, 2.0, -1.5, 0.5, -2.5, -0.2, -1.0, 1.0, -2.0], True, False),  # a mean below 0 is always "stable"
        ([0.0] * 10, False, True),  # 0 / 0
        ([1.15**t for t in range(10)], True, False),  # growing, at a coefficient of variation of 0.416
        ([1.2**-t for t in range(10)], False, True),  # healthy, at 0.537
        ([1.0] * 9 + [math.nan], False, False),
    ],
)
def test_where_the_rule_of_the_guide_is_wrong(values: list[float], literal: bool, robust: bool) -> None:
    assert bool(watched(values, mode="literal")) == literal
    assert bool(watched(values)) == robust


def test_the_coefficients_of_variation_of_growth_and_decay() -> None:
    for factor, expected in ((1.15, 0.416), (1 / 1.2, 0.537)):
        values = torch.tensor([factor**t for t in range(10)], dtype=torch.float64)
        assert (values.std() / values.mean()).item() == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize("window_size", [5, 10, 12, 100])
@pytest.mark.parametrize("name", [*STEADY, *UNSTEADY])
def test_literal_is_the_guide_at_every_step(name: str, window_size: int) -> None:
    values = STEADY[name] if name in STEADY else UNSTEADY[name][0]
    guide, ours = GuideMonitor(window_size), LossStabilityMonitor(window_size, mode="literal")
    for value in values:
        guide.update(torch.tensor(value))
        ours.update(torch.tensor(value))
        assert bool(ours.check_stability()) == guide.stable()


def test_takes_tensors_that_require_grad() -> None:
    monitor = LossStabilityMonitor()
    monitor.update(torch.tensor(2.0, requires_grad=True))
    monitor.update(torch.tensor([3.0]))
    assert list(monitor.loss_history) == [2.0, 3.0]
    with pytest.raises(ValueError, match=r"loss has shape \(2,\); expected a tensor of one element or a number"):
        monitor.update(torch.ones(2))


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"window_size": 1}, "window_size=1; expected a whole number of at least 2"),
    ({"window_size": 2.5}, "window_size=2.5; expected a whole number of at least 2"),
    ({"mode": "guide"}, "mode='guide'; expected 'robust' or 'literal'"),
    ({"threshold": 0.0}, "threshold=0.0, floor=1e-08; expected numbers above 0"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="expected") as error:
        LossStabilityMonitor(**arguments)
    assert str(error.value) == message
