"""KL in the reward, and the two controllers of a coefficient."""

from __future__ import annotations

import math

import pytest
import torch

from loss_reference.policy_gradient.entropy import AdaptiveEntropyCoefficient
from loss_reference.policy_gradient.kl import KL_TYPES, kl_penalty
from loss_reference.policy_gradient.kl_control import AdaptiveKLController, kl_in_reward


def test_kl_in_reward_by_hand() -> None:
    rewards = torch.tensor([[0.0, 0.0, 1.0]])
    lp, ref = torch.tensor([[-1.0, -2.0, -3.0]]), torch.tensor([[-1.5, -2.0, -2.0]])
    assert kl_in_reward(rewards, lp, ref, 0.1)[0].tolist() == pytest.approx([-0.05, 0.0, 1.1])
    assert kl_in_reward(rewards, lp, ref, 0.0).tolist() == rewards.tolist()
    for kl_type in KL_TYPES:
        expected = rewards - 0.3 * kl_penalty(lp, ref, kl_type)
        torch.testing.assert_close(kl_in_reward(rewards, lp, ref, 0.3, kl_type), expected)
    clamped = kl_in_reward(rewards, lp, ref - 40, 1.0, "k1", input_clamp=20.0, output_clamp=10.0)
    assert clamped.tolist() == [[-10.0, -10.0, -9.0]]


def test_kl_in_reward_is_a_constant_and_refuses_other_shapes() -> None:
    lp = torch.zeros(2, 3, requires_grad=True)
    assert not kl_in_reward(torch.zeros(2, 3, requires_grad=True), lp, torch.ones(2, 3), 0.1).requires_grad
    with pytest.raises(ValueError, match=r"lp_ref has shape \(2,\); expected \(2, 3\), that of the rewards"):
        kl_in_reward(torch.zeros(2, 3), lp, torch.ones(2), 0.1)


@pytest.mark.parametrize(("kl", "factor"), [(6.0, 1.0), (6.6, 1.01), (60.0, 1.02), (5.4, 0.99), (0.0, 0.98)])
def test_the_kl_controller_by_hand(kl: float, factor: float) -> None:
    controller = AdaptiveKLController(0.2, target=6.0, horizon=1000.0)
    assert controller.update(kl, 100) == pytest.approx(0.2 * factor)
    assert controller.coefficient == pytest.approx(0.2 * factor)


def test_the_kl_controller_finds_the_coefficient_of_its_target() -> None:
    controller = AdaptiveKLController(1.0, target=0.5, horizon=10.0)
    for _ in range(2000):
        controller.update(1 / controller.coefficient, 1)
    assert controller.coefficient == pytest.approx(2.0, rel=1e-6)


@pytest.mark.parametrize("numbers", [(-0.1, 6, 10), (0.1, 0, 10), (0.1, 6, 0)])
def test_the_kl_controller_refuses(numbers: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="expected a coefficient of at least 0, target and horizon above 0"):
        AdaptiveKLController(*numbers)
    controller = AdaptiveKLController(0.1, 6.0, 10.0)
    with pytest.raises(ValueError, match="kl=nan; expected a finite number"):
        controller.update(math.nan, 1)
    assert controller.coefficient == 0.1


def test_the_entropy_controller_steps_within_its_bounds() -> None:
    controller = AdaptiveEntropyCoefficient(coefficient=0.004, target=0.2, step=0.003, most=0.008)
    assert controller.value == 0  # no entropy is known yet
    seen = [(controller.update(H), controller.coefficient) for H in (0.1, 0.2, 0.1, 0.3, 0.3, 0.3, 0.1)]
    values, coefficients = zip(*seen, strict=True)
    assert coefficients == pytest.approx([0.007, 0.008, 0.008, 0.005, 0.002, 0.0, 0.003])
    assert values == pytest.approx([0.007, 0.008, 0.008, 0.0, 0.0, 0.0, 0.003])  # off while above the target
    assert controller.value == values[-1]


def test_the_entropy_controller_by_default_and_its_errors() -> None:
    controller = AdaptiveEntropyCoefficient()
    assert [controller.update(0.2) for _ in range(2)] == pytest.approx([0.005, 0.01])
    for _ in range(300):
        controller.update(0.0)
    assert controller.value == 1.0
    with pytest.raises(ValueError, match="expected 0 <= least <= coefficient <= most"):
        AdaptiveEntropyCoefficient(coefficient=2.0)
    with pytest.raises(ValueError, match="mean_entropy is nan"):
        controller.update(math.nan)
    assert controller.value == 1.0
