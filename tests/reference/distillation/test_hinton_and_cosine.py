"""Hinton's distillation, and the cosine of logits."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from loss_reference import ConfigError, registry
from tests.reference.cases import value_and_gradient
from tests.reference.distillation.extended import extended_case
from tests.reference.distillation.test_kl import FORWARD, P, Q, one_position

INF = math.inf


def test_by_hand() -> None:
    batch, outputs = one_position(P, Q)
    batch["input_ids"] = torch.tensor([[5, 0]])
    hinton = registry.create("hinton_kd", {"temperature": 1.0, "alpha": 0.3})
    value, _ = value_and_gradient(hinton, batch, outputs, "logits")
    assert value.item() == pytest.approx(0.7 * math.log(4) + 0.3 * FORWARD)
    # Of the logits themselves: the teacher's are equal, the student's -log 4 and -log 4/3.
    cosine = (math.log(4) + math.log(4 / 3)) / math.hypot(math.log(4), math.log(4 / 3)) / 2**0.5
    value, _ = value_and_gradient(registry.create("cosine_distill", {"hard_weight": 2.0}), batch, outputs, "logits")
    assert value.item() == pytest.approx(0.5 * (1 - cosine) + 2 * math.log(4))


def test_hinton_special_cases_and_gradient() -> None:
    batch, outputs = extended_case(5, sample_mask="floats")
    hard = value_and_gradient(registry.create("hinton_kd", {"alpha": 0.0}), batch, outputs, "logits")
    torch.testing.assert_close(hard, value_and_gradient("nll", batch, outputs, "logits"))
    soft = value_and_gradient(
        registry.create("hinton_kd", {"alpha": 1.0, "temperature": 1.0}), batch, outputs, "logits"
    )
    torch.testing.assert_close(soft, value_and_gradient("forward_kl", batch, outputs, "logits"))
    # (1 - a) (q - onehot) + a T (q_T - p_T)
    one, z = one_position([0.1, 2.0, -1.0], [1.0, 0.0, 0.3])
    one["input_ids"] = torch.tensor([[7, 2]])
    _, gradient = value_and_gradient(registry.create("hinton_kd", {"alpha": 0.3, "temperature": 3.0}), one, z, "logits")
    q, q_T = z["logits"][0, 0].softmax(-1), (z["logits"][0, 0] / 3).softmax(-1)
    expected = 0.7 * (q - torch.tensor([0, 0, 1])) + 0.3 * 3 * (q_T - (one["teacher_logits"][0, 0] / 3).softmax(-1))
    torch.testing.assert_close(gradient[0, 0], expected)
    # A part of weight 0 is not taken, even where it is infinite.
    impossible, student = one_position([0.0, 0.0], [0.0, -INF])
    impossible["input_ids"] = torch.tensor([[0, 0]])
    assert value_and_gradient(registry.create("hinton_kd", {"alpha": 0.0}), impossible, student, "logits")[0] == 0
    assert value_and_gradient("hinton_kd", impossible, student, "logits")[0] == INF


def test_hinton_is_promised_to_end_at_nll_where_it_does() -> None:
    for config, special in (({}, {0.0: "nll"}), ({"temper_hard": True}, {})):
        assert registry.create("hinton_kd", config).contract.options["alpha"].reduces_to == special


def test_cosine_sees_direction_alone() -> None:
    batch, outputs = extended_case(6)
    expected = value_and_gradient("cosine_distill", batch, outputs, "logits")
    scaled = value_and_gradient("cosine_distill", batch, {"logits": 7 * outputs["logits"]}, "logits")
    torch.testing.assert_close(scaled[0], expected[0])
    louder = batch | {"teacher_logits": 0.1 * batch["teacher_logits"]}
    torch.testing.assert_close(value_and_gradient("cosine_distill", louder, outputs, "logits"), expected)
    torch.testing.assert_close(
        (expected[1] * outputs["logits"]).sum(-1), torch.zeros(4, 6).double(), rtol=0, atol=1e-15
    )
    shifted = value_and_gradient("cosine_distill", batch, {"logits": outputs["logits"] + 5}, "logits")
    assert abs(shifted[0] - expected[0]) > 0.01  # a constant changes the angle and no probability
    opposite = value_and_gradient("cosine_distill", *one_position([1.0, -2.0], [-1.0, 2.0]), "logits")[0]
    assert opposite.item() == pytest.approx(2 * 0.5)
    nothing = value_and_gradient("cosine_distill", *one_position([1.0, -2.0], [0.0, 0.0], torch.float32), "logits")
    assert nothing[0].item() == 0.5
    assert torch.isfinite(nothing[1]).all()
    filtered = value_and_gradient("cosine_distill", *one_position([1.0, -2.0, -INF], [3.0, 1.0, -INF]), "logits")
    assert filtered[0].item() == pytest.approx(
        value_and_gradient("cosine_distill", *one_position([1.0, -2.0], [3.0, 1.0]), "logits")[0].item()
    )


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("hinton_kd", {"alpha": 2}, "HintonKDLoss: alpha=2 is out of range"),
        ("hinton_kd", {"temper_hard": 1}, "HintonKDLoss: temper_hard=1; expected true or false"),
        ("cosine_distill", {"beta": 0}, "CosineDistillLoss: beta=0 is out of range; expected a number above 0"),
    ],
)
def test_config_errors(name: str, config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        registry.create(name, config)


def test_missing_targets_are_named() -> None:
    batch, outputs = one_position(P, Q)
    with pytest.raises(KeyError, match="batch needs 'input_ids' where hard_weight is above 0"):
        registry.create("cosine_distill", {"hard_weight": 1.0}).compute_loss(batch, outputs)


@pytest.mark.parametrize("beta", [0.5, 3.0])
def test_the_angle_is_within_its_bounds(beta: float) -> None:
    """From 0, along the teacher, to 2 b, against it, and nothing outside; the cross entropy has no bound above."""
    loss = registry.create("cosine_distill", {"beta": beta})
    assert (loss.contract.lower_bound, loss.contract.upper_bound) == (0, 2 * beta)
    assert not registry.create("cosine_distill", {"hard_weight": 1.0}).contract.declares("upper_bound")
    values = []
    for seed in range(10):
        batch, outputs = extended_case(seed, vocabulary=2)
        for direction in (outputs["logits"], batch["teacher_logits"], -batch["teacher_logits"]):
            values.append(value_and_gradient(loss, batch, {"logits": direction}, "logits")[0].item())
    assert min(values) == pytest.approx(0, abs=1e-14)
    assert max(values) == pytest.approx(2 * beta, rel=1e-14)
    assert all(-1e-14 <= value <= 2 * beta * (1 + 1e-14) for value in values)
