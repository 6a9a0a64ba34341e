"""Losses of single answers: KTO, APO-zero, BCO with its running mean, and Nash-MD."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch

from loss_reference import registry
from loss_reference.preference.bco import density_ratio
from tests.oracles import preference_unpaired
from tests.reference.cases import rows_of, value_and_gradient
from tests.reference.preference.answers import answers, one_token
from tests.reference.test_against_oracles import arrays

LP = "next_token_logprobs"
LOG2 = math.log(2)


@pytest.mark.parametrize(
    ("name", "config", "labels", "value"),
    [
        ("kto", {"desirable_weight": 1.5}, [1.0, 1.0], 0.75),
        ("kto", {"undesirable_weight": 0.3}, [0.0, 0.0], 0.15),
        ("apo_zero_unpaired", {"desirable_weight": 1.5}, [1.0, 0.0], (0.75 + 0.5) / 2),
        ("bco", {}, [1.0, 0.0], LOG2),
    ],
)
def test_at_policy_equal_to_reference(name: str, config: dict[str, Any], labels: list[float], value: float) -> None:
    batch, outputs = one_token([0.0, 0.0], labels=labels, kl_reference_point=0.0)
    assert value_and_gradient(registry.create(name, config), batch, outputs, LP)[0].item() == pytest.approx(value)


@pytest.mark.parametrize("config", [{}, {"beta": 0.7, "desirable_weight": 1.3, "undesirable_weight": 0.4}])
def test_kto_from_a_reference_point_of_0_is_apo_zero(config: dict[str, Any]) -> None:
    batch, outputs = answers(3, sample_mask="floats")
    expected = value_and_gradient(registry.create("apo_zero_unpaired", config), batch, outputs, LP)
    for point in (0.0, -2.0):
        given = batch | {"kl_reference_point": torch.tensor(point)}
        torch.testing.assert_close(value_and_gradient(registry.create("kto", config), given, outputs, LP), expected)


def test_kto_estimates_the_reference_point_from_active_rows() -> None:
    h, labels = [0.5, -0.4, 2.0], [1.0, 0.0, 1.0]
    mismatched, weights = [3.0, 0.5, math.nan], [0.5, 1.5, 0.0]
    batch, outputs = one_token(h, labels=labels, mismatched_log_ratios=mismatched, sample_mask=weights)
    given = batch | {"kl_reference_point": torch.tensor((0.5 * 3.0 + 1.5 * 0.5) / 2.0)}
    expected = value_and_gradient("kto", given, outputs, LP)
    torch.testing.assert_close(value_and_gradient("kto", batch, outputs, LP), expected)
    del batch["mismatched_log_ratios"]
    with pytest.raises(KeyError, match=r"kl_reference_point.*mismatched_log_ratios"):
        registry.create("kto").compute_loss(batch, outputs)


@pytest.mark.parametrize("given", [True, False])
def test_kto_adds_up_over_microbatches_when_z_is_given(given: bool) -> None:
    batch, outputs = answers(5, sample_mask=None, counts=True)
    if given:
        batch["kl_reference_point"] = torch.tensor(0.3, dtype=torch.float64)
    whole = value_and_gradient("kto", batch, outputs, LP)[0]
    parts = [value_and_gradient("kto", rows_of(batch, i, i + 4), rows_of(outputs, i, i + 4), LP)[0] for i in (0, 4, 8)]
    assert (sum(parts).item() == pytest.approx(whole.item(), rel=1e-12)) == given
    assert registry.create("kto").contract.coupled


@pytest.mark.parametrize("name", ["kto", "apo_zero_unpaired"])
@pytest.mark.parametrize("label", [0.0, 1.0])
def test_bounds_and_direction(name: str, label: float) -> None:
    config = {"desirable_weight": 0.4, "undesirable_weight": 1.7}
    loss = registry.create(name, config)
    assert loss.contract.upper_bound == 1.7
    for h in (-1e4, -500.0, -1.0, 0.0, 1.0, 500.0, 1e4):
        batch, outputs = one_token([h], labels=[label], kl_reference_point=0.2, dtype=torch.float32)
        value, gradient = value_and_gradient(loss, batch, outputs, LP)
        assert 0 <= value <= (0.4 if label else 1.7)
        assert gradient.item() * (1 if label else -1) <= 0
    # 1 - sigma(50) is 0 in float32, sigma(-50) is not.
    batch, outputs = one_token(
        [500.0 if label else -500.0], labels=[label], kl_reference_point=0.0, dtype=torch.float32
    )
    assert value_and_gradient(name, batch, outputs, LP)[0].item() == pytest.approx(math.exp(-50), rel=1e-5, abs=0)


def test_bco_measures_rewards_from_their_running_mean() -> None:
    loss = registry.create("bco", {"beta": 0.5})
    first, outputs = one_token([1.0, 3.0, 9.0], labels=[1.0, 0.0, 1.0], sample_mask=[1.0, 0.5, 0.0])
    value, _ = value_and_gradient(loss, first, outputs, LP)
    d = 0.5 * (1.0 + 3.0) / 2
    terms = [-math.log(1 / (1 + math.exp(-(0.5 - d)))), -math.log(1 / (1 + math.exp(1.5 - d)))]
    assert value.item() == pytest.approx((terms[0] + 0.5 * terms[1]) / 1.5)
    assert loss.state_dict()["reward_mean"] == pytest.approx(d)
    assert loss.state_dict()["reward_count"] == 2
    second, outputs = one_token([-5.0], labels=[0.0])
    value_and_gradient(loss, second, outputs, LP)
    assert loss.state_dict()["reward_mean"] == pytest.approx((0.5 + 1.5 - 2.5) / 3)


def test_bco_state_is_saved_and_left_alone_in_evaluation() -> None:
    batch, outputs = answers(7)
    loss = registry.create("bco")
    value_and_gradient(loss, batch, outputs, LP)
    before = copy.deepcopy(loss.state_dict())
    other = registry.create("bco").eval()
    other.load_state_dict(before)
    loss.eval()
    batch, outputs = answers(8)
    got, expected = (value_and_gradient(x, batch, outputs, LP)[0] for x in (loss, other))
    assert torch.equal(got, expected)
    assert loss.state_dict() == before
    oracle = preference_unpaired.bco(
        arrays(batch),
        {LP: outputs[LP].numpy()},
        mean=float(before["reward_mean"]),
        count=float(before["reward_count"]),
        training=False,
    )
    assert got.item() == pytest.approx(oracle, rel=1e-12)
    loss.train()
    assert value_and_gradient(loss, batch, outputs, LP)[0].item() != pytest.approx(oracle, rel=1e-6)


def test_bco_state_survives_a_batch_without_rows() -> None:
    loss = registry.create("bco")
    batch, outputs = one_token([2.0], labels=[1.0])
    value_and_gradient(loss, batch, outputs, LP)
    before = copy.deepcopy(loss.state_dict())
    value_and_gradient(loss, batch | {"sample_mask": torch.zeros(1)}, {LP: torch.full((1, 1), math.nan)}, LP)
    assert loss.state_dict() == before


def test_bco_weighs_undesirable_rows_by_their_density_ratio() -> None:
    assert density_ratio(torch.tensor([0.0, 0.8, 1.0])).tolist() == pytest.approx([0.5, 4.0, 10.0], rel=1e-6)
    gradients = []
    for p in (0.5, 0.8):
        batch, outputs = one_token([0.0, 0.0], labels=[1.0, 0.0], desirable_probability=[p, p])
        gradients.append(value_and_gradient(registry.create("bco").eval(), batch, outputs, LP)[1].flatten())
    assert (gradients[1] / gradients[0]).tolist() == pytest.approx([1.0, 4.0], rel=1e-6)


def test_nash_md_is_a_policy_gradient_with_a_kl_per_token() -> None:
    batch, outputs = answers(9, sample_mask="floats")
    _, gradient = value_and_gradient(registry.create("nash_md", {"beta": 0.4}), batch, outputs, LP)
    w = batch["sample_mask"]
    per_token = (
        0.4 * (outputs[LP] - batch["reference_policy_logprobs"][:, 1:])
        - (batch["preference_probability"] - 0.5)[:, None]
    )
    expected = per_token * batch["token_mask"][:, 1:] * (w / w.sum().clamp(min=1))[:, None]
    torch.testing.assert_close(gradient, expected)


def test_nash_md_rests_at_the_reference_and_even_odds() -> None:
    batch, outputs = one_token([0.0, 0.0], preference_probability=[0.5, 0.5])
    value, gradient = value_and_gradient("nash_md", batch, outputs, LP)
    assert value.item() == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))
