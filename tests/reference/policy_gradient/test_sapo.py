"""SAPO: -A (4 / tau) sigma(tau (rho - 1))."""

from __future__ import annotations

import math

import pytest
import torch

from loss_reference import ConfigError, ReinforceLoss, SAPOLoss
from loss_reference.policy_gradient.sapo import sapo
from tests.reference.cases import case, value_and_gradient

FIELD = "next_token_logprobs"


@pytest.mark.parametrize(
    ("rho", "A", "tau"), [(1.0, 2.0, 1.0), (1.0, -2.0, 1.05), (1.5, 1.0, 1.0), (0.2, -3.0, 1.05), (4.0, -1.0, 1.05)]
)
def test_by_hand(rho: float, A: float, tau: float) -> None:
    x = torch.tensor(rho, dtype=torch.float64, requires_grad=True)
    value = sapo(x, torch.tensor(A, dtype=torch.float64))
    s = 1 / (1 + math.exp(-tau * (rho - 1)))
    assert value.item() == pytest.approx(-A * 4 / tau * s)
    assert torch.autograd.grad(value, x)[0].item() == pytest.approx(-4 * A * s * (1 - s))


@pytest.mark.parametrize("aggregation", ["token_mean", "seq_mean_token_mean", "seq_mean_token_sum"])
def test_on_policy_value_and_gradient(aggregation: str) -> None:
    batch, outputs = case(1, sample_mask="floats")
    batch["advantages"] = batch["advantages"].abs()
    outputs[FIELD] = batch["prev_logprobs"][:, 1:]
    config = {"aggregation": aggregation}
    value, gradient = value_and_gradient(SAPOLoss(config | {"tau_pos": 0.5}), batch, outputs, FIELD)
    torch.testing.assert_close(gradient, value_and_gradient(ReinforceLoss(config), batch, outputs, FIELD)[1])
    ones = outputs | {FIELD: -torch.ones_like(outputs[FIELD])}
    torch.testing.assert_close(value, -2 / 0.5 * ReinforceLoss(config).compute_loss(batch, ones))


def test_the_gate_is_bounded_and_closes_on_both_sides() -> None:
    rho = torch.logspace(-20, 20, 81, dtype=torch.float64, requires_grad=True)
    A = torch.ones((), dtype=torch.float64)
    gate = -sapo(rho, A, tau_pos=2.0)
    assert ((gate > 0) & (gate <= 2)).all()
    (slope,) = torch.autograd.grad(gate.sum(), rho)
    assert (slope <= 1).all()
    assert slope[-1] == 0


def test_zero_advantage_takes_the_negative_temperature_and_gives_nothing() -> None:
    rho = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    value = sapo(rho, torch.zeros((), dtype=torch.float64))
    assert value == 0
    assert torch.autograd.grad(value, rho)[0] == 0


@pytest.mark.parametrize("key", ["tau_pos", "tau_neg"])
def test_temperatures_are_above_zero(key: str) -> None:
    with pytest.raises(ConfigError) as error:
        SAPOLoss({key: 0})
    assert str(error.value) == f"SAPOLoss: {key}=0 is out of range; expected a number above 0"
