"""Preference losses far out, on their kinks, swapped, and where a constant or a common length drops out."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from loss_reference import registry
from tests.reference.cases import value_and_gradient
from tests.reference.preference.answers import one_token
from tests.reference.preference.helpers import at
from tests.reference.test_preference_against_oracles import rewarded_case

Config = dict[str, Any]
LP = "next_token_logprobs"
UNIT: Config = {"beta": 1.0}
TINY = math.exp(-40)
CLIPPED = (-0.5 / (1 + math.e), 0.5 / (1 + math.e))


@pytest.mark.parametrize(
    ("name", "h_w", "h_l", "terms"),
    [
        *((name, 40.0, 0.0, 1) for name in ("dpo", "dpo_norm", "aot", "aot_unpaired", "ld_dpo", "r_dpo", "odpo", "dpop")),
        ("discopop", 40.0, 0.0, 1),
        ("bco_pair", 40.0, -40.0, 2),
        ("apo_zero", 40.0, -40.0, 2),
        ("apo_down", -40.0, -80.0, 2),
    ],
)  # fmt: skip
def test_what_is_nearly_learnt_keeps_its_digits_in_float32(name: str, h_w: float, h_l: float, terms: int) -> None:
    """1 - sigma(40) is 0 in float32, sigma(-40) is not."""
    value, gradient = at(name, h_w, h_l, UNIT, dtype=torch.float32)
    assert value == pytest.approx(terms * TINY, rel=1e-5, abs=0)
    assert gradient.abs().max().item() == pytest.approx(TINY, rel=1e-5, abs=0)


@pytest.mark.parametrize("name", ["dpo", "cdpo", "robust_dpo", "dpo_norm", "aot", "aot_unpaired", "ld_dpo", "r_dpo"])
def test_without_a_scale_every_pair_is_undecided(name: str) -> None:
    for delta in (-50.0, 3.0):
        assert at(name, delta, 0.0, {"beta": 1e-12})[0] == pytest.approx(math.log(2), rel=1e-9)


@pytest.mark.parametrize("delta", [-3.0, 0.5, 20.0])
@pytest.mark.parametrize(
    ("name", "config", "odd"),
    [
        ("dpo", UNIT, lambda x: -x),
        ("cdpo", {**UNIT, "label_smoothing": 0.2}, lambda x: -0.6 * x),
        ("aot", {**UNIT, "label_smoothing": 0.2}, lambda x: -0.6 * x),
        ("robust_dpo", {**UNIT, "label_smoothing": 0.2}, lambda x: -x / 0.6),
        ("exo_pair", {**UNIT, "label_smoothing": 0.2}, lambda x: -math.tanh(x / 2) * math.log(4)),
        ("ipo", UNIT, lambda x: -2 * x),
    ],
)
def test_swapping_chosen_and_rejected(name: str, config: Config, odd: Any, delta: float) -> None:
    there, back = at(name, delta, 0.0, config), at(name, 0.0, delta, config)
    assert there[0] - back[0] == pytest.approx(odd(delta))


@pytest.mark.parametrize(
    ("name", "config", "h", "p", "gradient"),
    [
        ("hinge_dpo", {"beta": 0.5}, (2.0, 0.0), (-1.0, -1.0), (0.0, 0.0)),
        ("slic_hf", {"delta": 2.0}, (0.0, 0.0), (-1.0, -3.0), (0.0, 0.0)),
        ("dpop", UNIT, (0.0, 0.0), (-1.0, -1.0), (-0.5, 0.5)),  # as dpo: no penalty yet
        # Where the exponent meets its limit u' is still 2; with no exponent left, u(h) = h, the margin meets 2 R at 1.
        ("chi_po", {"beta": 0.25, "log_ratio_limit": 0.0}, (0.0, 0.0), (-1.0, -1.0), (-0.25, 0.25)),
        ("chi_po", {"beta": 0.5, "log_ratio_limit": -1e3, "reward_limit": 0.5}, (2.0, 0.0), (-1.0, -1.0), CLIPPED),
    ],
)
def test_slope_on_a_kink(
    name: str, config: Config, h: tuple[float, float], p: tuple[float, float], gradient: tuple[float, float]
) -> None:
    _, got = at(name, *h, config, p_w=p[0], p_l=p[1])
    assert got.tolist() == pytest.approx(list(gradient), rel=1e-15, abs=0)


def test_a_tie_in_rrhf_pushes_nobody() -> None:
    batch, outputs = one_token([0.0, 0.0], rewards=[0.0, 1.0])
    loss = registry.create("rrhf", {"nll_weight": 0.0})
    value, gradient = value_and_gradient(loss, batch, outputs, LP)
    assert value == 0
    assert gradient.flatten().tolist() == [0.0, 0.0]


def test_answers_of_one_length_scale_beta() -> None:
    batch, outputs = rewarded_case(31, rows=6, sample_mask="floats", counts=True)
    batch["token_mask"] = torch.tensor([[0.0, 1, 0, 1, 1, 0], [1, 0, 1, 1, 0, 1]] * 3, dtype=torch.float64)
    got = value_and_gradient(registry.create("dpo_norm", {"beta": 0.6}), batch, outputs, LP)
    expected = value_and_gradient(registry.create("dpo", {"beta": 0.2}), batch, outputs, LP)
    torch.testing.assert_close(got, expected)
    # (D / 3 - 1 / (2 beta))^2 is (D - 3 / (2 beta))^2 / 9.
    of_means = registry.create("ipo", {"beta": 0.6, "average_log_probs": True})
    of_sums = value_and_gradient(registry.create("ipo", {"beta": 0.2}), batch, outputs, LP)
    torch.testing.assert_close(value_and_gradient(of_means, batch, outputs, LP), tuple(x / 9 for x in of_sums))
    batch["token_mask"] = torch.eye(6, dtype=torch.float64)[[1, 3, 2, 5, 4, 1]]
    for loss, name in ((registry.create("dpo_norm"), "dpo"), (of_means, "ipo")):
        expected = value_and_gradient(registry.create(name, {"beta": loss.beta}), batch, outputs, LP)
        torch.testing.assert_close(value_and_gradient(loss, batch, outputs, LP), expected)


@pytest.mark.parametrize(
    ("name", "config", "other", "other_config"),
    [
        ("cpo", {"alpha": 0.0, "beta": 0.3}, "dpo", {"beta": 0.3}),
        ("cpo", {"alpha": 0.0, "beta": 0.3, "loss_type": "hinge"}, "hinge_dpo", {"beta": 0.3}),
        ("cpo", {"alpha": 0.0, "beta": 0.3, "loss_type": "ipo"}, "ipo", {"beta": 0.3, "average_log_probs": True}),
        ("cpo", {"alpha": 0.4, "beta": 0.3}, "rpo_nll", {"alpha": 0.4, "beta": 0.3}),
        ("simpo", {"gamma": 0.0, "beta": 0.3}, "dpo_norm", {"beta": 0.3}),
        ("simpo", {"gamma": 0.0, "beta": 0.3, "nll_weight": 0.0}, "dpo_norm", {"beta": 0.3}),
    ],
)
def test_a_reference_that_knows_nothing_drops_out(name: str, config: Config, other: str, other_config: Config) -> None:
    batch, outputs = rewarded_case(33, rows=6, sample_mask="floats", counts=True)
    batch["reference_policy_logprobs"] = torch.zeros(6, 6, dtype=torch.float64)
    got = value_and_gradient(registry.create(name, config), batch, outputs, LP)
    torch.testing.assert_close(got, value_and_gradient(registry.create(other, other_config), batch, outputs, LP))


def test_simpo_with_the_margin_as_a_multiple_of_beta() -> None:
    """Open-Instruct: -log sigma(beta (p_w - p_l - ratio)), gamma = beta ratio."""
    value, _ = at("simpo", 0.0, 0.0, {"beta": 5.0, "gamma": 5.0 * 0.3}, p_w=-0.4, p_l=-1.0)
    assert value == pytest.approx(math.log1p(math.exp(-5.0 * (0.6 - 0.3))))
