"""Closed forms: values at policy = reference, minima, special cases, bounds."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from loss_reference import registry
from tests.reference.cases import value_and_gradient
from tests.reference.preference.helpers import at, pairs
from tests.reference.test_preference_against_oracles import rewarded_case

LP = "next_token_logprobs"
LOG2 = math.log(2)
Config = dict[str, Any]


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def entropy(e: float) -> float:
    return -e * math.log(e) - (1 - e) * math.log(1 - e)


@pytest.mark.parametrize("beta", [0.1, 0.7])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, lambda b: LOG2) for name in ("cdpo", "robust_dpo", "dpo_norm", "ld_dpo", "dpop", "r_dpo", "odpo")),
        *((name, lambda b: LOG2) for name in ("fdpo_forward_kl", "fdpo_js", "fdpo_alpha", "aot", "aot_unpaired")),
        *((name, lambda b: 1.0) for name in ("hinge_dpo", "apo_zero", "apo_down")),
        *((name, lambda b: 2 * LOG2) for name in ("nca_pair", "bco_pair")),
        ("ipo", lambda b: 1 / (4 * b**2)),
        ("sppo_hard", lambda b: 1 / (2 * b**2)),
        ("cal_dpo", lambda b: LOG2 + 1 / (2 * b**2)),
        ("exo_pair", lambda b: -LOG2 - 0.5 * math.log(1e-3 * (1 - 1e-3))),
        ("discopop", lambda b: 0.5 * (1 + LOG2)),
        ("rpo_sq", lambda b: 0.0),
        ("rpo_fwd_kl", lambda b: 0.0),
        ("rpo_bwd_kl", lambda b: 0.0),
        ("simpo", lambda b: softplus(0.5)),
        ("alphapo", lambda b: softplus(0.5)),
        ("orpo", lambda b: 1.0 + b * LOG2),
        ("cpo", lambda b: 1.0 + LOG2),
    ],
)
def test_at_policy_equal_to_reference(name: str, value: Any, beta: float) -> None:
    assert at(name, 0.0, 0.0, {"beta": beta})[0] == pytest.approx(value(beta), rel=1e-12, abs=1e-15)


def test_at_policy_equal_to_reference_without_beta() -> None:
    assert at("slic_hf", 0.0, 0.0, {"delta": 2.5})[0] == pytest.approx(2.5)
    assert at("rebel", 0.0, 0.0, {"eta": 2.0}, gap=1.5)[0] == pytest.approx(1.5**2)
    assert at("rpo_sq", 0.0, 0.0, {"eta": 2.0}, gap=1.5)[0] == pytest.approx(3.0**2)
    assert at("odpo", 0.0, 0.0, {"alpha": 2.0}, gap=1.5)[0] == pytest.approx(softplus(3.0))


@pytest.mark.parametrize(
    ("name", "h_w", "h_l", "lowest", "config"),
    [
        ("cdpo", 10 * math.log(0.8 / 0.2), 0.0, entropy(0.2), {"label_smoothing": 0.2}),
        ("exo_pair", 10 * math.log(0.8 / 0.2), 0.0, 0.0, {"label_smoothing": 0.2}),
        ("ipo", 5.0, 0.0, 0.0, {}),
        ("ipo", 1.0, 0.5, 0.0, {"beta": 1.0}),
        ("sppo_hard", 5.0, -5.0, 0.0, {}),
        ("nca_pair", 10 * LOG2, -1e4, 1.5 * math.log(3) - LOG2, {}),
        ("rpo_sq", 2.5, -2.5, 0.0, {}),
        ("rpo_fwd_kl", 2.5, -2.5, 0.0, {}),
        ("rpo_bwd_kl", 2.5, -2.5, 0.0, {}),
        ("rebel", 0.5, -0.5, 0.0, {}),
    ],
)
def test_minimum(name: str, h_w: float, h_l: float, lowest: float, config: Config) -> None:
    value, gradient = at(name, h_w, h_l, config, gap=1.0)
    assert value == pytest.approx(lowest, abs=1e-14)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-14)
    for step in (-0.1, 0.1):
        assert at(name, h_w + step, h_l, config, gap=1.0)[0] > lowest


@pytest.mark.parametrize(
    ("name", "config", "other", "other_config"),
    [
        ("cdpo", {"label_smoothing": 0.0}, "dpo", {}),
        ("cdpo", {"label_smoothing": 0.3}, "dpo", {"label_smoothing": 0.3}),
        ("robust_dpo", {"label_smoothing": 0.0}, "dpo", {}),
        ("dpo_norm", {}, "dpo", {"average_log_probs": True}),
        ("fdpo_alpha", {"alpha": 1.0}, "dpo", {}),
        ("fdpo_alpha", {"alpha": 0.0}, "fdpo_forward_kl", {}),
        ("ld_dpo", {"alpha": 1.0}, "dpo", {}),
        ("dpop", {"lambda_": 0.0}, "dpo", {"beta": 0.3}),
        ("r_dpo", {"alpha": 0.0}, "dpo", {}),
        ("odpo", {"alpha": 0.0}, "dpo", {}),
        ("alphapo", {"alpha": 0.0}, "simpo", {}),
        ("rpo_sq", {"beta": 0.5, "eta": 1.0}, "rebel", {"eta": 2.0}),
    ],
)
def test_special_case(name: str, config: Config, other: str, other_config: Config) -> None:
    batch, outputs = rewarded_case(41, rows=6, sample_mask="floats", counts=True)
    got = value_and_gradient(registry.create(name, config), batch, outputs, LP)
    expected = value_and_gradient(registry.create(other, other_config), batch, outputs, LP)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("name", "config", "limit", "limit_config"),
    [
        ("alphapo", {"alpha": 1e-9}, "simpo", {}),
        ("alphapo", {"alpha": -1e-9}, "simpo", {}),
        ("fdpo_alpha", {"alpha": 1 - 1e-9}, "dpo", {}),
    ],
)
def test_limit_is_reached_smoothly(name: str, config: Config, limit: str, limit_config: Config) -> None:
    batch, outputs = rewarded_case(43)
    got = value_and_gradient(registry.create(name, config), batch, outputs, LP)
    expected = value_and_gradient(registry.create(limit, limit_config), batch, outputs, LP)
    torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("e", [0.05, 0.1, 0.4])
@pytest.mark.parametrize("delta", [-30.0, -2.0, 0.0, 3.0, 80.0])
def test_robust_dpo_is_unbiased_under_flipped_labels(e: float, delta: float) -> None:
    config = {"label_smoothing": e}
    noisy = (1 - e) * at("robust_dpo", delta, 0.0, config)[0] + e * at("robust_dpo", 0.0, delta, config)[0]
    assert noisy == pytest.approx(at("dpo", delta, 0.0)[0], rel=1e-10)


def test_robust_dpo_has_no_minimum() -> None:
    assert at("robust_dpo", 100.0, 0.0)[0] == pytest.approx(-1.25, abs=1e-3)
    assert at("robust_dpo", 1e4, 0.0)[0] == pytest.approx(-125.0, rel=1e-6)
    assert registry.create("robust_dpo").contract.lower_bound == -math.inf


def test_cdpo_at_one_half_does_not_tell_the_answers_apart() -> None:
    config = {"label_smoothing": 0.5}
    assert at("cdpo", 7.0, 0.0, config)[0] == pytest.approx(at("cdpo", 0.0, 7.0, config)[0])


def test_hinge_is_flat_beyond_its_margin() -> None:
    assert at("hinge_dpo", 10.0 + 1e-6, 0.0)[0] == 0
    assert torch.equal(at("hinge_dpo", 11.0, 0.0)[1], torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close(at("hinge_dpo", 9.0, 0.0)[1], torch.tensor([-0.1, 0.1], dtype=torch.float64))


def test_apo_is_bounded_and_both_ends_are_approached() -> None:
    for name in ("apo_zero", "apo_down"):
        for h_w in (-1e3, -10.0, 0.0, 10.0, 1e3):
            for h_l in (-1e3, -10.0, 0.0, 10.0, 1e3):
                assert 0 <= at(name, h_w, h_l)[0] <= 2
        assert registry.create(name).contract.upper_bound == 2
    assert at("apo_zero", -1e3, 1e3)[0] == pytest.approx(2.0)
    assert at("apo_zero", 1e3, -1e3)[0] == pytest.approx(0.0)
    assert at("apo_down", 1e3, 1e4)[0] == pytest.approx(2.0)
    assert at("apo_down", -1e3, -1e4)[0] == pytest.approx(0.0)


def test_apo_down_lowers_the_chosen_answer_too() -> None:
    assert at("apo_down", 0.0, -20.0)[1][0] > 0


def test_dpop_is_dpo_while_the_chosen_answer_is_no_less_likely() -> None:
    torch.testing.assert_close(at("dpop", 0.5, 2.0), at("dpo", 0.5, 2.0, {"beta": 0.3}))
    # Inside the log-sigmoid: a penalty of 50 * 0.1 nats.
    assert at("dpop", -0.1, 0.0)[0] == pytest.approx(softplus(0.3 * 5.1))


@pytest.mark.parametrize(("y", "delta"), [(-2.0, 1.0), (0.0, 4.0), (3.0, -2.0)])
def test_rpo_kl_divergences(y: float, delta: float) -> None:
    p, q = sigmoid(y), sigmoid(0.2 * delta)

    def kl(a: float, b: float) -> float:
        return a * math.log(a / b) + (1 - a) * math.log((1 - a) / (1 - b))

    assert at("rpo_bwd_kl", delta, 0.0, gap=y)[0] == pytest.approx(kl(p, q))
    assert at("rpo_fwd_kl", delta, 0.0, gap=y)[0] == pytest.approx(kl(q, p))
    smoothed = at("dpo", delta, 0.0, {"beta": 0.2, "label_smoothing": sigmoid(-y)} if y >= 0 else {"beta": 0.2})[0]
    if y >= 0:
        assert at("rpo_bwd_kl", delta, 0.0, gap=y)[0] == pytest.approx(smoothed - entropy(sigmoid(-y)))


def test_rpo_sq_is_promised_to_be_rebel_where_it_is() -> None:
    for eta, special in ((1.0, {1.0: "rebel"}), (0.5, {})):
        assert registry.create("rpo_sq", {"eta": eta}).contract.options["beta"].reduces_to == special
        far = at("rpo_sq", 2.0, -1.0, {"beta": 1.0, "eta": eta}, gap=0.7)[0]
        assert (far == pytest.approx(at("rebel", 2.0, -1.0, {"eta": eta}, gap=0.7)[0])) == bool(special)


def test_rpo_bwd_kl_of_a_certain_target_is_dpo() -> None:
    got, expected = at("rpo_bwd_kl", 3.0, 0.0, gap=200.0), at("dpo", 3.0, 0.0, {"beta": 0.2})
    assert got[0] == pytest.approx(expected[0])
    torch.testing.assert_close(got[1], expected[1])


@pytest.mark.parametrize(("tau", "climbs"), [(0.05, True), (0.07, True), (0.11, False), (1.0, False)])
def test_discopop_climbs_where_tau_is_small(tau: float, climbs: bool) -> None:
    config = {"tau": tau, "beta": 0.1}
    assert (at("discopop", 0.0, 0.0, config)[1][0] > 0) == climbs
    assert ("wanted_direction" in registry.create("discopop", config).contract.exempt) == climbs


def test_discopop_climbs_from_one_branch_to_the_other() -> None:
    assert at("discopop", 0.5, 0.0)[0] > at("discopop", -1.0, 0.0)[0]
    assert at("discopop", 20.0, 0.0)[0] == pytest.approx(math.exp(-2.0))
    assert at("discopop", -20.0, 0.0)[0] == pytest.approx(softplus(2.0))


def test_slic_hf_knows_no_reference_and_no_scale() -> None:
    assert at("slic_hf", 9.0, -9.0, p_w=-2.0, p_l=-1.5)[0] == pytest.approx(1.5)
    assert at("slic_hf", 0.0, 0.0, p_w=-2.0, p_l=-3.5)[0] == 0.0


def test_orpo_on_known_probabilities() -> None:
    p_w, p_l = 0.8, 0.3
    odds_ratio = (p_w / (1 - p_w)) / (p_l / (1 - p_l))
    expected = -math.log(p_w) - 0.1 * math.log(odds_ratio / (1 + odds_ratio))
    assert at("orpo", 0.0, 0.0, p_w=math.log(p_w), p_l=math.log(p_l))[0] == pytest.approx(expected)


def test_alphapo_on_a_known_probability() -> None:
    # (1 - p^-2) / 2 at p = 1/2 is -1.5, at p = 1/4 it is -7.5.
    config = {"alpha": 2.0, "beta": 1.0, "gamma": 0.25}
    got = at("alphapo", 0.0, 0.0, config, p_w=math.log(0.5), p_l=math.log(0.25))[0]
    assert got == pytest.approx(softplus(-5.75))


def test_length_normalised_losses_do_not_see_the_length() -> None:
    for name in ("dpo_norm", "simpo", "alphapo", "orpo"):
        batch, outputs = pairs([0.7], [-0.2], p_w=-0.5, p_l=-2.0)
        longer = {k: x if k == "rewards" else torch.cat([x, x[:, 1:]], dim=1) for k, x in batch.items()}
        twice = {LP: outputs[LP].repeat(1, 2)}
        loss = registry.create(name)
        assert loss.contract.length_normalized
        torch.testing.assert_close(loss.compute_loss(longer, twice), loss.compute_loss(batch, outputs))
