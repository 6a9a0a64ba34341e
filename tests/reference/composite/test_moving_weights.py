"""Weights that are learnt, and weights that follow how fast each loss falls."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from loss_reference import ModelOutputs
from loss_reference.composite.dwa import DWALoss, dwa_weights
from loss_reference.composite.uncertainty_weighting import UncertaintyWeightingLoss
from tests.oracles import composite_objectives as oracle
from tests.reference.cases import value_and_gradient
from tests.reference.composite.helpers import losses, usual
from tests.reference.composite.test_objectives import BOTH, logits_case, parts


def test_uncertainty_weighting() -> None:
    batch, outputs = logits_case(2)
    (L1, g1), (L2, g2) = parts(batch, outputs)
    loss = UncertaintyWeightingLoss({"losses": BOTH})
    assert [name for name, _ in loss.named_parameters()] == ["log_variances"]
    at_zero = value_and_gradient(loss, batch, outputs, "logits")[0]
    assert at_zero.item() == pytest.approx((L1 + L2).item() / 2)
    s = torch.tensor([0.7, -1.2])
    with torch.no_grad():
        loss.log_variances.copy_(s)
    value, gradient = value_and_gradient(loss, batch, outputs, "logits")
    expected = oracle.uncertainty_weighting([L1.item(), L2.item()], [0.7, -1.2])
    assert value.item() == pytest.approx(expected, rel=1e-6)  # s is float32
    torch.testing.assert_close(gradient, (math.exp(-0.7) * g1 + math.exp(1.2) * g2) / 2, rtol=1e-6, atol=0)
    total = loss.compute_loss(batch, ModelOutputs(outputs))
    assert isinstance(total, torch.Tensor)
    (slope,) = torch.autograd.grad(total, loss.log_variances)
    assert slope.tolist() == pytest.approx(
        [0.5 - 0.5 * math.exp(-0.7) * L1.item(), 0.5 - 0.5 * math.exp(1.2) * L2.item()]
    )
    with torch.no_grad():
        loss.log_variances.copy_(torch.stack([L1, L2]).log())  # stationary at exp(s) = L
    total = loss.compute_loss(batch, ModelOutputs(outputs))
    assert isinstance(total, torch.Tensor)
    assert torch.autograd.grad(total, loss.log_variances)[0].abs().max() < 1e-6
    shares = loss.components(batch, ModelOutputs(outputs))
    assert list(shares) == ["nll", "forward_kl", "log_variances"]
    torch.testing.assert_close(sum(shares.values()), total)


@pytest.mark.parametrize(
    ("previous", "before", "temperature"),
    [((1.0, 1.0), (2.0, 1.0), 2.0), ((3.0, 0.1, 5.0), (1.0, 1.0, 5.0), 0.5), ((-1.0, 2.0), (0.5, 4.0), 1.0)],
)
def test_dwa_weights(previous: tuple[float, ...], before: tuple[float, ...], temperature: float) -> None:
    got = dwa_weights(
        torch.tensor(previous, dtype=torch.float64), torch.tensor(before, dtype=torch.float64), temperature
    )
    assert got.tolist() == pytest.approx(oracle.dwa_weights(previous, before, temperature), rel=1e-12)
    assert got.sum().item() == pytest.approx(len(previous))
    assert torch.isfinite(dwa_weights(torch.tensor([1.0, 1.0]), torch.tensor([0.0, 1.0]))).all()


def dwa_with(values: list[float]) -> DWALoss:
    loss = DWALoss({"losses": [{"type": "nll"}] * len(values), "temperature": 0.5})
    return set_values(loss, values)


def set_values(loss: DWALoss, values: list[float]) -> DWALoss:
    loss.loss_functions = losses(*values)  # type: ignore[assignment]
    return loss


def test_dwa_follows_the_last_two_calls_in_training() -> None:
    batch, outputs = usual()
    history = [(4.0, 1.0), (2.0, 1.0), (1.0, 2.0), (0.1, 3.0)]
    loss, seen = dwa_with([4.0, 1.0]), []
    for step, values in enumerate(history):
        set_values(loss, list(values))
        shares = loss.components(batch, ModelOutputs(outputs))  # remembers nothing
        value = value_and_gradient(loss, batch, outputs, "next_token_logprobs")[0].item()
        assert sum(x.item() for x in shares.values()) == pytest.approx(value, rel=1e-6)
        weights = (1.0, 1.0) if step < 2 else oracle.dwa_weights(history[step - 1], history[step - 2], 0.5)
        assert value == pytest.approx(sum(w * x for w, x in zip(weights, values, strict=True)), rel=1e-6)
        seen.append(value)
    assert abs(seen[2] - 3.0) > 0.1  # not all 1 any more
    restored = dwa_with([0.1, 3.0])
    restored.load_state_dict(copy.deepcopy(loss.state_dict()))
    restored.eval()
    once, twice = (value_and_gradient(restored, batch, outputs, "next_token_logprobs")[0] for _ in range(2))
    assert once == twice
    assert restored.calls == loss.calls == 4
    expected = oracle.dwa_weights(history[3], history[2], 0.5)
    assert once.item() == pytest.approx(0.1 * expected[0] + 3 * expected[1], rel=1e-6)


def test_dwa_weights_are_constant_to_the_gradient() -> None:
    batch, outputs = logits_case(3)
    loss = DWALoss({"losses": BOTH})
    loss.history, loss.calls = torch.tensor([[2.0, 1.0], [1.0, 3.0]]), torch.tensor(2)
    (L1, g1), (L2, g2) = parts(batch, outputs)
    w = oracle.dwa_weights([1.0, 3.0], [2.0, 1.0], 2.0)
    value, gradient = value_and_gradient(loss, batch, outputs, "logits")
    assert value.item() == pytest.approx(w[0] * L1.item() + w[1] * L2.item(), rel=1e-6)
    torch.testing.assert_close(gradient, w[0] * g1 + w[1] * g2, rtol=1e-6, atol=0)
