"""Focal loss, Poly-1, DFT and weighted NLL: losses of the probability of the target alone."""

from __future__ import annotations

import math

import pytest
import torch

from loss_reference import ConfigError, registry
from tests.reference.cases import case, value_and_gradient
from tests.reference.supervised.one_position import at_logprob

LP = "next_token_logprobs"
SMALL = (0.0, -1e-45, -1e-38, -1e-30, -1e-8)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 7.0])
def test_focal_at_one_half(gamma: float) -> None:
    value, slope = at_logprob("focal_ce", -math.log(2), {"gamma": gamma, "alpha": 3.0})
    assert value == pytest.approx(3 * 2**-gamma * math.log(2))
    assert slope == pytest.approx(-3 * 2**-gamma * (gamma * math.log(2) + 1))
    if gamma == 0:
        return  # then there is no weight to detach
    detached = at_logprob("focal_ce", -math.log(2), {"gamma": gamma, "alpha": 3.0, "detach_weight": True})
    assert detached == pytest.approx((value, -3 * 2**-gamma))


def test_focal_lies_between_0_and_the_cross_entropy() -> None:
    for lp in (-1e-6, -0.1, -1.0, -50.0):
        values = [at_logprob("focal_ce", lp, {"gamma": gamma})[0] for gamma in (0.0, 0.3, 1.0, 4.0)]
        assert values[0] == -lp
        assert values == sorted(values, reverse=True)
        assert values[-1] > 0 or lp == -1e-6


@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("lp", SMALL)
@pytest.mark.parametrize("gamma", [0.01, 0.5, 1.0, 2.0])
def test_focal_of_a_certain_target_is_flat(gamma: float, lp: float, detach: bool) -> None:
    config = {"gamma": gamma, "detach_weight": detach}
    value, slope = at_logprob("focal_ce", lp, config, dtype=torch.float32)
    # (1 - p)^gamma (-lp) is (-lp)^(1 + gamma) here; below the smallest normal number it is taken as 0.
    assert value == pytest.approx((-lp) ** (1 + gamma), rel=1e-5, abs=1.2e-38)
    largest = (-lp) ** gamma * (1 if detach else 1 + gamma)
    assert -largest * (1 + 1e-5) - 1e-30 <= slope <= 0
    if lp < -1e-37:
        assert slope == pytest.approx(-largest, rel=1e-5, abs=1.2e-38)


@pytest.mark.parametrize("lp", [*SMALL, -1e4])
def test_poly1_and_dft_at_both_ends(lp: float) -> None:
    p = math.exp(lp)
    value, slope = at_logprob("poly1_ce", lp, {"epsilon": 2.0}, dtype=torch.float32)
    assert value == pytest.approx(-lp + 2 * -math.expm1(lp), rel=1e-6, abs=1e-44)
    assert slope == pytest.approx(-1 - 2 * p)
    value, slope = at_logprob("dft", lp, dtype=torch.float32)
    assert (value, slope) == pytest.approx((-p * lp, -p), rel=1e-6, abs=1e-44)


def test_poly1_is_not_negative_down_to_minus_1() -> None:
    for lp in (0.0, -1e-6, -0.5, -5.0):
        value, slope = at_logprob("poly1_ce", lp, {"epsilon": -1.0})
        assert value >= 0
        assert slope <= 0


def test_dft_trains_p_as_nll_trains_log_p() -> None:
    batch, outputs = case(11, sample_mask="floats")
    _, nll = value_and_gradient("nll", batch, outputs, LP)
    _, dft = value_and_gradient("dft", batch, outputs, LP)
    torch.testing.assert_close(dft, outputs[LP].exp() * nll, rtol=1e-15, atol=0)


def test_dft_is_bounded_by_its_value_at_1_over_e() -> None:
    assert at_logprob("dft", -1.0)[0] == pytest.approx(math.exp(-1), rel=1e-15)
    assert registry.create("dft").contract.upper_bound == math.exp(-1)
    assert registry.create("dft", {"aggregation": "seq_mean_token_mean"}).contract.upper_bound == math.exp(-1)
    batch = {"token_mask": torch.ones(1, 3)}
    both = {LP: torch.tensor([[-1.0, -1.0]])}
    loss = registry.create("dft", {"aggregation": "seq_mean_token_sum"})
    assert loss.compute_loss(batch, both) > math.exp(-1) + 0.3
    assert loss.contract.upper_bound == math.inf


def test_end_points_are_nll() -> None:
    batch, outputs = case(3)
    batch["token_weights"] = torch.ones(4, 6, dtype=torch.float64)
    expected = value_and_gradient("nll", batch, outputs, LP)
    for name, config in (
        ("focal_ce", {"gamma": 0.0}),
        ("poly1_ce", {"epsilon": 0.0}),
        ("weighted_nll", {}),
        ("weighted_nll", {"divisor": "weights"}),
    ):
        got = value_and_gradient(registry.create(name, config), batch, outputs, LP)
        torch.testing.assert_close(got, expected, rtol=1e-14, atol=0)


def test_focal_loss_is_promised_to_end_at_nll_where_it_does() -> None:
    for alpha, special in ((1.0, {0.0: "nll"}), (0.25, {})):
        assert registry.create("focal_ce", {"alpha": alpha}).contract.options["gamma"].reduces_to == special


def test_a_common_factor_of_the_weights() -> None:
    batch, outputs = case(3)
    weights = torch.rand(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1
    for divisor, factor in (("tokens", 3.0), ("weights", 1.0)):
        loss = registry.create("weighted_nll", {"divisor": divisor})
        once, thrice = (loss.compute_loss(batch | {"token_weights": c * weights}, outputs) for c in (1.0, 3.0))
        torch.testing.assert_close(thrice, factor * once)


@pytest.mark.parametrize("divisor", ["tokens", "weights"])
@pytest.mark.parametrize("content", [-math.inf, math.nan])
def test_a_token_of_weight_0_is_absent(content: float, divisor: str) -> None:
    batch = {"token_mask": torch.ones(1, 4), "token_weights": torch.tensor([[math.nan, 2.0, 0.0, 1.0]])}
    outputs = {LP: torch.tensor([[-1.0, content, -3.0]])}
    loss = registry.create("weighted_nll", {"divisor": divisor})
    value, gradient = value_and_gradient(loss, batch, outputs, LP)
    assert value == pytest.approx(5 / 3)
    assert gradient.tolist()[0] == pytest.approx([-2 / 3, 0, -1 / 3])


def test_weights_receive_no_gradient_and_are_refused_in_another_shape() -> None:
    batch, outputs = case(3)
    batch["token_weights"] = torch.ones(4, 6, dtype=torch.float64, requires_grad=True)
    outputs[LP].requires_grad_()
    registry.create("weighted_nll").compute_loss(batch, outputs).backward()
    assert batch["token_weights"].grad is None
    batch["token_weights"] = torch.ones(4)
    with pytest.raises(ValueError, match=r"token_weights has shape \(4,\); expected \(4, 6\)"):
        registry.create("weighted_nll").compute_loss(batch, outputs)


def test_the_divisor_of_weights_is_a_mean_over_tokens() -> None:
    with pytest.raises(ConfigError, match=r"divisor='weights' .* expected aggregation='token_mean', not 'seq_mean_tok"):
        registry.create("weighted_nll", {"divisor": "weights", "aggregation": "seq_mean_token_sum"})
    assert registry.create("weighted_nll", {"divisor": "weights"}).contract.normalizer == "local"
