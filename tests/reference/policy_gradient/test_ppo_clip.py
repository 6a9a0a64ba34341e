"""PPO: max(-A rho, -A clip(rho, 1 - e_l, 1 + e_h)) and its dual clip."""

from __future__ import annotations

import math

import pytest
import torch

from loss_reference import ConfigError, PPOClipLoss
from loss_reference.policy_gradient.ppo_clip import ppo_clip
from loss_reference.policy_gradient.ratio import MAX_LOG_RATIO, probability_ratio
from tests.reference.cases import case, value_and_gradient


def one_token(
    delta: float, advantage: float, dtype: torch.dtype = torch.float32, **config: object
) -> tuple[float, float]:
    """Return value and gradient of the loss of one token whose log-ratio is ``delta``."""
    batch = {
        "token_mask": torch.ones(1, 2),
        "prev_logprobs": torch.tensor([[0.0, -250.0]], dtype=dtype),
        "advantages": torch.tensor([[math.nan, advantage]], dtype=dtype),
    }
    outputs = {"next_token_logprobs": torch.tensor([[-250.0 + delta]], dtype=dtype)}
    value, gradient = value_and_gradient(PPOClipLoss(config), batch, outputs, "next_token_logprobs")
    return value.item(), gradient.item()


@pytest.mark.parametrize(
    ("rho", "advantage", "value", "gradient"),
    [
        (1.0, 3.0, -3.0, -3.0),
        (1.0, -3.0, 3.0, 3.0),
        (1.1, 2.0, -2.2, -2.2),
        (1.5, 2.0, -2.4, 0.0),  # gained enough: clipped at 1.2
        (1.5, -2.0, 3.0, 3.0),
        (0.5, 2.0, -1.0, -1.0),
        (0.5, -2.0, 1.6, 0.0),  # lost enough: clipped at 0.8
        (1.5, 0.0, 0.0, 0.0),
    ],
)
def test_by_hand(rho: float, advantage: float, value: float, gradient: float) -> None:
    assert one_token(math.log(rho), advantage, torch.float64) == pytest.approx((value, gradient))


@pytest.mark.parametrize(
    ("rho", "advantage", "value", "gradient"),
    [
        (2.0, -1.0, 2.0, 2.0),
        (4.0, -1.0, 3.0, 0.0),
        (4.0, 1.0, -1.2, 0.0),
        (0.5, -1.0, 0.8, 0.0),
        (0.5, 1.0, -0.5, -0.5),
    ],
)
def test_dual_clip_by_hand(rho: float, advantage: float, value: float, gradient: float) -> None:
    assert one_token(math.log(rho), advantage, torch.float64, ratio_clip_c=3.0) == pytest.approx((value, gradient))


def test_on_policy_value_is_minus_A_and_gradient_that_of_reinforce() -> None:
    batch, outputs = case(1, sample_mask="floats")
    outputs["next_token_logprobs"] = batch["prev_logprobs"][:, 1:]
    m = batch["token_mask"][:, 1:] * batch["sample_mask"][:, None]
    A, T = batch["advantages"][:, 1:], m.sum()
    value, gradient = value_and_gradient(PPOClipLoss(), batch, outputs, "next_token_logprobs")
    torch.testing.assert_close(value, -(m * A).sum() / T)
    torch.testing.assert_close(gradient, -A * m / T)


def test_wide_clip_is_the_importance_sampling_gradient() -> None:
    batch, outputs = case(2)
    m = batch["token_mask"][:, 1:] * batch["sample_mask"][:, None]
    rho = (outputs["next_token_logprobs"] - batch["prev_logprobs"][:, 1:]).exp()
    config = {"ratio_clip_min": 1.0, "ratio_clip_max": 1e6}
    value, gradient = value_and_gradient(PPOClipLoss(config), batch, outputs, "next_token_logprobs")
    torch.testing.assert_close(value, -(m * batch["advantages"][:, 1:] * rho).sum() / m.sum())
    torch.testing.assert_close(gradient, -m * batch["advantages"][:, 1:] * rho / m.sum())


def test_scales_with_the_advantage_and_vanishes_with_it() -> None:
    batch, outputs = case(3)
    loss = PPOClipLoss({"ratio_clip_c": 2.0})
    value = loss.compute_loss(batch, outputs)
    torch.testing.assert_close(
        loss.compute_loss(batch | {"advantages": 5 * batch["advantages"]}, outputs), 5 * value, rtol=1e-13, atol=0
    )
    none = batch | {"advantages": 0 * batch["advantages"]}
    got, gradient = value_and_gradient(loss, none, outputs, "next_token_logprobs")
    assert got == 0
    assert gradient.abs().sum() == 0


def test_exactly_on_a_bound_the_gradient_is_whole() -> None:
    rho = torch.tensor([0.75, 1.25], dtype=torch.float64, requires_grad=True)
    A = torch.tensor([-2.0, 2.0], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(ppo_clip(rho, A, 0.25, 0.25).sum(), rho)
    assert torch.equal(gradient, -A)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("delta", [89.0, 200.0])
def test_huge_ratio_clipped_away_is_exact(delta: float, dtype: torch.dtype) -> None:
    value, gradient = one_token(delta, 2.0, dtype)
    assert value == pytest.approx(-2.4)
    assert gradient == 0


def test_huge_ratio_saturates_where_it_is_not_clipped() -> None:
    value, gradient = one_token(200.0, -2.0)
    assert value == pytest.approx(2 * math.exp(MAX_LOG_RATIO), rel=1e-5)
    assert gradient == 0
    assert one_token(60.0, -2.0) == pytest.approx((2 * math.exp(60), 2 * math.exp(60)), rel=1e-5)
    assert one_token(200.0, -2.0, ratio_clip_c=3.0) == (6, 0)


def test_vanishing_ratio() -> None:
    assert one_token(-200.0, 2.0) == (0, 0)
    assert one_token(-200.0, -2.0) == pytest.approx((1.6, 0))
    assert one_token(-math.inf, 2.0) == (0, 0)


def test_ratio_is_capped_in_value_and_gradient() -> None:
    lp = torch.tensor([0.0, 1e4], requires_grad=True)
    rho = probability_ratio(lp, torch.zeros(2))
    assert rho.tolist() == pytest.approx([1, math.exp(MAX_LOG_RATIO)], rel=1e-5)
    assert torch.autograd.grad(rho.sum(), lp)[0].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"ratio_clip_min": -0.1}, "PPOClipLoss: ratio_clip_min=-0.1 is out of range; expected a number at least 0"),
        ({"ratio_clip_c": 1.0}, "PPOClipLoss: ratio_clip_c=1.0 is out of range; expected a number above 1"),
        ({"ratio_clip_max": None}, "PPOClipLoss: ratio_clip_max=None; expected a finite number, at least 0"),
        ({"aggregation": "fixed"}, "PPOClipLoss: aggregation='fixed' needs max_length, the number it divides by"),
    ],
)
def test_config_errors(config: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        PPOClipLoss(config)
    assert str(error.value) == message
