"""Soft cross entropy, Jensen-Shannon, skewed divergences and total variation."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from loss_reference import ConfigError, registry
from loss_reference.distillation.mixture import generalized_jsd, log_mixture
from tests.reference.cases import Tensors, value_and_gradient
from tests.reference.distillation.extended import extended_case
from tests.reference.distillation.test_kl import P, Q, one_position

INF = math.inf
# Teacher (1/2, 1/2), student (1/4, 3/4); their mean is (3/8, 5/8).
TO_MEAN_P = 0.5 * math.log(4 / 3) + 0.5 * math.log(4 / 5)
TO_MEAN_Q = 0.25 * math.log(2 / 3) + 0.75 * math.log(6 / 5)


@pytest.mark.parametrize(
    ("name", "config", "by_hand"),
    [
        ("soft_ce", {}, 0.5 * math.log(4) + 0.5 * math.log(4 / 3)),
        ("generalized_jsd", {}, (TO_MEAN_P + TO_MEAN_Q) / 2),
        ("skew_forward_kl", {"skew": 0.5}, TO_MEAN_P),
        ("skew_reverse_kl", {"skew": 0.5}, TO_MEAN_Q),
        ("tvd", {}, 0.25),
    ],
)
def test_by_hand(name: str, config: dict[str, Any], by_hand: float) -> None:
    batch, outputs = one_position(P, Q)
    value, _ = value_and_gradient(registry.create(name, config), batch, outputs, "logits")
    assert value.item() == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_soft_ce_is_forward_kl_plus_entropy_with_its_gradient(temperature: float) -> None:
    batch, outputs = extended_case(1, sample_mask="floats")
    config = {"temperature": temperature}
    value, gradient = value_and_gradient(registry.create("soft_ce", config), batch, outputs, "logits")
    kl, kl_gradient = value_and_gradient(registry.create("forward_kl", config), batch, outputs, "logits")
    at_equality, nothing = value_and_gradient(
        registry.create("soft_ce", config), batch, {"logits": batch["teacher_logits"]}, "logits"
    )
    torch.testing.assert_close(value - kl, at_equality)
    torch.testing.assert_close(gradient, kl_gradient)
    assert at_equality > 0.1
    torch.testing.assert_close(nothing, torch.zeros_like(nothing), rtol=0, atol=1e-16)


def swapped(batch: Tensors, outputs: Tensors) -> tuple[Tensors, Tensors]:
    return batch | {"teacher_logits": outputs["logits"]}, {"logits": batch["teacher_logits"]}


@pytest.mark.parametrize("beta", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_jsd_exchange_and_bound(beta: float) -> None:
    batch, outputs = extended_case(2)
    one, other = (
        registry.create("generalized_jsd", {"beta": beta}),
        registry.create("generalized_jsd", {"beta": 1 - beta}),
    )
    value = value_and_gradient(one, batch, outputs, "logits")[0]
    torch.testing.assert_close(value_and_gradient(other, *swapped(batch, outputs), "logits")[0], value)
    far = value_and_gradient(one, *one_position([60.0, 0.0], [0.0, 60.0]), "logits")[0]
    bound = one.contract.upper_bound
    if 0 < beta < 1:
        assert bound == pytest.approx(-beta * math.log(beta) - (1 - beta) * math.log(1 - beta))
        assert far.item() == pytest.approx(bound, rel=1e-12)
    else:
        assert bound is None
        assert far.item() == pytest.approx(60.0)


@pytest.mark.parametrize(("limit", "divergence"), [(0.0, "forward_kl"), (1.0, "reverse_kl")])
def test_jsd_jumps_at_its_end_points(limit: float, divergence: str) -> None:
    """Near an end point the formula is the divergence of that end point times the distance to it, and so tends to 0."""
    batch, outputs = extended_case(3)
    at_end = value_and_gradient(registry.create("generalized_jsd", {"beta": limit}), batch, outputs, "logits")
    expected = value_and_gradient(divergence, batch, outputs, "logits")
    torch.testing.assert_close(at_end, expected)
    near = registry.create("generalized_jsd", {"beta": abs(limit - 1e-6)})
    value = value_and_gradient(near, batch, outputs, "logits")[0]
    assert value.item() / 1e-6 == pytest.approx(expected[0].item(), rel=1e-4)


@pytest.mark.parametrize(("name", "kl"), [("skew_forward_kl", "forward_kl"), ("skew_reverse_kl", "reverse_kl")])
def test_skew_end_points_and_bound(name: str, kl: str) -> None:
    batch, outputs = extended_case(4)
    unskewed = value_and_gradient(registry.create(name, {"skew": 0.0}), batch, outputs, "logits")
    torch.testing.assert_close(unskewed, value_and_gradient(kl, batch, outputs, "logits"))
    value, gradient = value_and_gradient(registry.create(name, {"skew": 1.0}), batch, outputs, "logits")
    assert abs(value.item()) < 1e-15
    assert gradient.abs().max() < 1e-15
    far, slope = value_and_gradient(registry.create(name), *one_position([0.0, -INF], [-INF, 0.0]), "logits")
    assert far.item() == pytest.approx(-math.log(0.1))
    assert torch.isfinite(slope).all()


@pytest.mark.parametrize(
    ("name", "key", "share"), [("mixed_kl", "mixed_kl_weight", 0.3), ("skew_forward_kl", "skew", None)]
)
def test_a_cross_entropy_for_the_forward_part(name: str, key: str, share: float | None) -> None:
    """A larger value, by the entropy of the teacher, and the same gradient; an end point is soft_ce."""
    batch, outputs = extended_case(5)
    config = {key: 0.3}
    loss = registry.create(name, config | {"forward_part": "cross_entropy"})
    got, kl = (value_and_gradient(x, batch, outputs, "logits") for x in (loss, registry.create(name, config)))
    forward, soft = (value_and_gradient(x, batch, outputs, "logits")[0] for x in ("forward_kl", "soft_ce"))
    torch.testing.assert_close(got[0] - kl[0], (share or 1.0) * (soft - forward))
    torch.testing.assert_close(got[1], kl[1])
    assert "soft_ce" in loss.contract.options[key].reduces_to.values()
    assert loss.contract.upper_bound == math.inf or not loss.contract.declares("upper_bound")


@pytest.mark.parametrize("name", ["soft_ce", "generalized_jsd", "skew_forward_kl", "skew_reverse_kl", "tvd"])
def test_tokens_impossible_for_both_add_nothing(name: str) -> None:
    value, gradient = value_and_gradient(name, *one_position([*P, -INF], [*Q, -INF]), "logits")
    smaller = value_and_gradient(name, *one_position(P, Q), "logits")
    torch.testing.assert_close(value, smaller[0])
    torch.testing.assert_close(gradient[..., :2], smaller[1])
    assert gradient[..., 2].abs().sum() == 0


def test_log_mixture_and_parts_of_distributions() -> None:
    a, b = torch.tensor([0.0, -INF, -INF]), torch.tensor([-INF, 0.0, -INF])
    assert log_mixture(a, b, 0.25).exp().tolist() == pytest.approx([0.75, 0.25, 0.0])
    assert log_mixture(a, b, 0.0).exp().tolist() == [1.0, 0.0, 0.0]
    assert log_mixture(a, b, 1.0).exp().tolist() == [0.0, 1.0, 0.0]
    parts = torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(0)).abs().neg()
    assert (generalized_jsd(*parts, 0.3) >= 0).all()  # although neither sums to 1


def test_tvd_is_the_probability_that_must_move() -> None:
    value, gradient = value_and_gradient("tvd", *one_position([0.0, -INF, -INF], [-INF, 0.0, 0.0]), "logits")
    assert value.item() == 1.0
    assert gradient.abs().max() == 0  # saturated: nothing to follow
    batch, _ = one_position(P, P)
    assert value_and_gradient("tvd", batch, {"logits": batch["teacher_logits"]}, "logits")[1].abs().sum() == 0


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        (
            "generalized_jsd",
            {"beta": 1.2},
            "GeneralizedJSDLoss: beta=1.2 is out of range; expected a number at least 0 and",
        ),
        ("skew_forward_kl", {"skew": -0.1}, "SkewForwardKLLoss: skew=-0.1 is out of range"),
    ],
)
def test_config_errors(name: str, config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        registry.create(name, config)
