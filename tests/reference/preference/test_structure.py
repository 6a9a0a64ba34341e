"""Lengths, sorted batches, and the inputs that break careless forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from loss_reference import registry
from loss_reference.preference.bernoulli import bernoulli_kl
from loss_reference.preference.f_divergence import alpha_score, forward_kl_score
from loss_reference.preference.imitation import log1mexp, log_odds
from loss_reference.preference.length import common_length_weights, r_dpo
from loss_reference.preference.margin import discopop
from loss_reference.preference.reference_free import alpha_reward
from loss_reference.preference.sorted import quantile_differences
from tests.reference.cases import rows_of, value_and_gradient
from tests.reference.preference.helpers import pairs
from tests.reference.test_preference_against_oracles import rewarded_case

LP = "next_token_logprobs"


def with_slope(function: object, x: float, *args: object) -> tuple[float, float]:
    leaf = torch.tensor(x, dtype=torch.float32, requires_grad=True)
    value = function(leaf, *args)  # type: ignore[operator]
    (slope,) = torch.autograd.grad(value, leaf)
    return value.item(), slope.item()


def test_tokens_are_counted_along_the_mask() -> None:
    m = torch.tensor([[0.0, 1, 0, 1, 1], [1, 0, 0, 1, 0]])
    weights = common_length_weights(m, 0.25)
    assert torch.equal(weights * m, torch.tensor([[0.0, 1, 0, 1, 0.25], [1, 0, 0, 1, 0]]))


def test_ld_dpo_trains_nothing_past_the_shorter_answer() -> None:
    batch, outputs = rewarded_case(47, sample_mask=None)
    batch["token_mask"] = torch.tensor([[0.0, 1, 1, 1, 1, 1], [0, 1, 1, 0, 0, 0]] * 2, dtype=torch.float64)
    _, gradient = value_and_gradient(registry.create("ld_dpo", {"alpha": 0.0}), batch, outputs, LP)
    assert (gradient[0::2, :2] != 0).all()
    assert (gradient[0::2, 2:] == 0).all()
    _, halved = value_and_gradient(registry.create("ld_dpo", {"alpha": 0.5}), batch, outputs, LP)
    torch.testing.assert_close(halved[0::2, 2], halved[0::2, 1] / 2)


@pytest.mark.parametrize("name", ["ld_dpo", "r_dpo"])
def test_answers_of_equal_length_give_dpo(name: str) -> None:
    batch, outputs = rewarded_case(53, sample_mask=None)
    batch["token_mask"] = torch.tensor([[0.0, 1, 0, 1, 1, 0], [0, 0, 1, 1, 0, 1]] * 2, dtype=torch.float64)
    got = value_and_gradient(registry.create(name, {"alpha": 0.7}), batch, outputs, LP)
    torch.testing.assert_close(got, value_and_gradient("dpo", batch, outputs, LP), rtol=1e-12, atol=1e-15)


def test_r_dpo_counts_in_the_precision_of_the_loss() -> None:
    got = r_dpo(torch.zeros(1, dtype=torch.float64), torch.tensor([7]), torch.tensor([2]), alpha=0.01)
    assert got.dtype is torch.float64
    assert got.item() == pytest.approx(math.log1p(math.exp(-0.05)), rel=1e-14)


def test_quantiles_of_equal_weights_are_sorted_entries() -> None:
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 7, generator=g, dtype=torch.float64)
    d, v = quantile_differences(a, b, torch.ones(7, dtype=torch.float64))
    torch.testing.assert_close(d[v > 0], a.sort().values - b.sort().values)
    assert torch.equal(v[v > 0], torch.ones(7, dtype=torch.float64))
    assert (d * v).mean() * 2 == pytest.approx((a - b).mean())


def test_quantiles_weigh_entries() -> None:
    a, b = torch.tensor([3.0, 1.0, 9.0]), torch.tensor([0.0, 5.0, -9.0])

    def total(a: Tensor, b: Tensor, w: list[float]) -> float:
        d, v = quantile_differences(a, b, torch.tensor(w))
        assert v.sum() == sum(w)
        return float((d**2 * v).sum())

    assert total(a, b, [1, 1, 0]) == total(a[:2], b[:2], [1, 1])
    assert total(a[:2], b[:2], [2, 1]) == total(a[[0, 0, 1]], b[[0, 0, 1]], [1, 1, 1])
    assert total(a, b, [0, 0, 0]) == 0


@pytest.mark.parametrize("name", ["aot", "aot_unpaired"])
def test_one_pair_is_dpo(name: str) -> None:
    batch, outputs = pairs([0.7], [-0.4])
    for config in ({}, {"label_smoothing": 0.3, "beta": 2.0}):
        got, expected = (value_and_gradient(registry.create(x, config), batch, outputs, LP) for x in (name, "dpo"))
        torch.testing.assert_close(got, expected)


def test_aot_unpaired_does_not_care_who_stands_beside_whom() -> None:
    batch, outputs = rewarded_case(59, rows=8, sample_mask=None)
    order = torch.tensor([0, 3, 2, 7, 4, 1, 6, 5])
    value, gradient = value_and_gradient("aot_unpaired", batch, outputs, LP)
    shuffled = [{k: x[order] if len(x) == 8 else x for k, x in t.items()} for t in (batch, outputs)]
    moved, moved_gradient = value_and_gradient("aot_unpaired", shuffled[0], shuffled[1], LP)
    assert moved.item() == pytest.approx(value.item(), rel=1e-14)
    torch.testing.assert_close(moved_gradient, gradient[order], rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize("name", ["aot", "aot_unpaired"])
def test_sorted_losses_do_not_add_up_over_microbatches(name: str) -> None:
    batch, outputs = rewarded_case(61, rows=12, sample_mask=None)
    whole = value_and_gradient(name, batch, outputs, LP)[0].item()
    parts = [value_and_gradient(name, rows_of(batch, i, i + 6), rows_of(outputs, i, i + 6), LP)[0] for i in (0, 6)]
    assert sum(parts).item() / 2 != pytest.approx(whole, rel=1e-6)
    assert registry.create(name).contract.coupled


def test_f_divergences_of_an_abandoned_answer() -> None:
    for h in (-79.0, -81.0, -1e4):
        value, slope = with_slope(forward_kl_score, h)
        assert math.isfinite(value)
        assert math.isfinite(slope)
        assert (slope == 0) == (h < -80)
    value, slope = with_slope(alpha_score, -1e4, 0.5)
    assert value == pytest.approx(-2 * math.exp(80.0), rel=1e-5)
    assert slope == 0
    # Near order 1 the difference of two exponentials of nearly 1 keeps its digits.
    assert with_slope(alpha_score, 2.0, 1 - 1e-6)[0] == pytest.approx(2.0, rel=1e-5)


def test_discopop_of_a_hopeless_pair() -> None:
    for x in (-1e3, -1e6):
        value, slope = with_slope(discopop, x, 1.0, 0.05)
        assert value == pytest.approx(-x)
        assert slope == pytest.approx(-1.0)


def test_alpha_reward_of_an_impossible_answer() -> None:
    value, slope = with_slope(alpha_reward, -1e4, 0.25)
    assert math.isfinite(value)
    assert slope == 0
    assert with_slope(alpha_reward, -3.0, 1e-6)[0] == pytest.approx(-3.0, rel=1e-5)


def test_odds_at_both_ends() -> None:
    assert with_slope(log1mexp, -1e-6)[0] == pytest.approx(math.log(1e-6), rel=1e-6)
    assert with_slope(log1mexp, -50.0)[0] == pytest.approx(-math.exp(-50.0), rel=1e-5, abs=0)
    for p in (0.0, -1e-12):
        value, slope = with_slope(log_odds, p)
        assert value == pytest.approx(math.log(2.0**23), rel=1e-3)
        assert slope == 0


@pytest.mark.parametrize("x", [-1e-7, -1e-3, -0.5, -0.6931, -0.6932, -1.0, -5.0, -17.0, -80.0])
def test_log_of_one_minus_a_probability_keeps_its_digits(x: float) -> None:
    """log(1 - exp(x)) alone loses them all for x near 0, and for x below -17; its slope is 1 / (1 - exp(-x))."""
    x = torch.tensor(x, dtype=torch.float32).item()
    value, slope = with_slope(log1mexp, x)
    exact = math.log(-math.expm1(x)) if x > -1 else math.log1p(-math.exp(x))
    assert value == pytest.approx(exact, rel=4e-7, abs=0)  # a few roundings of float32
    assert slope == pytest.approx(-1 / math.expm1(-x), rel=4e-7, abs=0)


def test_orpo_of_an_answer_without_tokens() -> None:
    batch, outputs = pairs([0.0], [0.0], p_w=-0.5)
    batch["token_mask"][1] = 0
    value, gradient = value_and_gradient("orpo", batch, outputs, LP)
    assert value.item() == pytest.approx(0.5 + 0.1 * math.log(2))
    assert gradient.flatten().tolist() == [-1.0, 0.0]


def test_kl_of_certain_coins() -> None:
    for x in (-1e3, 1e3):
        value, slope = with_slope(bernoulli_kl, x, math.log1p(-1e-3), math.log(1e-3))
        assert math.isfinite(value)
        assert slope == pytest.approx(0.0, abs=1e-6)
    same = torch.tensor([-200.0, -3.0, 0.0, 3.0, 200.0])
    kl = bernoulli_kl(same, torch.nn.functional.logsigmoid(same), torch.nn.functional.logsigmoid(-same))
    assert torch.equal(kl, torch.zeros(5))
