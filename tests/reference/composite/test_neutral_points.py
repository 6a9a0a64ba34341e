"""Composites where one of their parts has nothing to say, and the order and unit of the losses they weigh."""

from __future__ import annotations

import math
from itertools import permutations
from typing import Any

import pytest
import torch

from loss_reference import DynamicWeightLoss, ModelOutputs, registry
from loss_reference.composite.dwa import dwa_weights
from loss_reference.composite.flooding import flooding
from loss_reference.composite.uncertainty_weighting import UncertaintyWeightingLoss
from tests.reference.cases import case, value_and_gradient
from tests.reference.composite.helpers import f64
from tests.reference.composite.test_multi_teacher import taught
from tests.reference.composite.test_objectives import BOTH, logits_case, parts
from tests.reference.policy_gradient.further import FIELD, further_case


@pytest.mark.parametrize("temperature", [0.1, 2.0])
@pytest.mark.parametrize("ratio", [1.0, 0.5, 3.0, -2.0])
def test_losses_that_fall_alike_weigh_1_in_dwa(ratio: float, temperature: float) -> None:
    before = torch.tensor([0.5, 1.0, 40.0], dtype=torch.float64)
    weights = dwa_weights(ratio * before, before, temperature)
    torch.testing.assert_close(weights, torch.ones(3, dtype=torch.float64))


def test_dwa_does_not_see_the_unit_of_a_loss_and_prefers_the_slowest() -> None:
    before, previous = f64(1.0) * torch.tensor([2.0, 1.0, 5.0]), f64(1.0) * torch.tensor([1.0, 0.9, 1.0])
    units = torch.tensor([1e3, 1.0, 1e-3])
    weights = dwa_weights(previous, before)
    torch.testing.assert_close(dwa_weights(units * previous, units * before), weights)
    assert weights.argsort().tolist() == [2, 0, 1]


def test_the_weights_of_the_guide_hang_on_the_order_of_the_losses() -> None:
    """A chain: each loss is compared with the next alone. With two, the larger gains what the other loses."""
    values = {name: f64(x) for name, x in (("a", 1.0), ("b", 2.0), ("c", 8.0))}
    for mode in ("robust", "literal"):
        loss = DynamicWeightLoss({"base_weights": [1.0, 1.0, 1.0], "adaptation_rate": 0.1, "mode": mode})
        seen = set()
        for order in permutations(values):
            weights = loss.compute_dynamic_weights([values[name] for name in order])
            seen.add(tuple(round(weights[order.index(name)].item(), 9) for name in "abc"))
        assert len(seen) > 1
        pair = DynamicWeightLoss({"adaptation_rate": 0.1, "mode": mode})
        first, second = pair.compute_dynamic_weights([values["c"], values["b"]])
        assert first - 1 == 1 - second > 0


def test_scaling_the_distillation_leaves_dynamic_loss_scaling_alone() -> None:
    """|CE| / |KD| takes its unit away: value and gradient are those of any multiple of it."""
    batch, outputs = logits_case(3)
    kd: dict[str, Any] = {"type": "hinton_kd", "alpha": 1.0, "temperature": 2.0}  # 4 times forward_kl
    got, expected = (
        value_and_gradient(registry.create("dynamic_loss_scaling", {"distillation": x}), batch, outputs, "logits")
        for x in (kd, BOTH[1])
    )
    torch.testing.assert_close(got, expected)


def test_learnt_weights_are_best_at_the_losses_themselves() -> None:
    """At e^s = L the value is (1 + log L) / 2 for each, and larger on either side of it."""
    batch, outputs = logits_case(4)
    losses = torch.stack([value for value, _ in parts(batch, outputs)])
    loss = UncertaintyWeightingLoss({"losses": BOTH}).double()

    def at(s: torch.Tensor) -> float:
        with torch.no_grad():
            loss.log_variances.copy_(s)
        return value_and_gradient(loss, batch, outputs, "logits")[0].item()

    best = at(losses.log())
    assert best == pytest.approx(((1 + losses.log()) / 2).sum().item(), rel=1e-12)
    for i in range(2):
        for step in (-0.1, 0.1):
            assert at(losses.log() + step * torch.eye(2, dtype=torch.float64)[i]) > best


@pytest.mark.parametrize("level", [0.0, 0.3, 2.0])
def test_a_flood_reflects_at_its_level(level: float) -> None:
    loss = torch.linspace(-1, 4, 51, dtype=torch.float64)
    flooded = flooding(loss, level)
    assert torch.equal(flooded[loss >= level], ((loss - level) + level)[loss >= level])
    torch.testing.assert_close(flooded[loss < level], (2 * level - loss)[loss < level])
    assert (flooded >= level).all()


@pytest.mark.parametrize("aggregation", ["sum", "averaged_logits", "select_teacher"])
def test_teachers_have_no_order_and_the_same_one_thrice_is_itself(aggregation: str) -> None:
    batch, outputs = taught(9, sample_mask="floats")
    weights, order, selecting = [0.2, 0.5, 0.3], [2, 0, 1], aggregation == "select_teacher"
    loss, turned = (
        registry.create("multi_teacher", {"aggregation": aggregation} | ({} if selecting else {"weights": w}))
        for w in (weights, [weights[i] for i in order])
    )
    expected = value_and_gradient(loss, batch, outputs, "logits")
    moved = batch | {"teachers_logits": batch["teachers_logits"][:, :, order]}
    torch.testing.assert_close(value_and_gradient(turned, moved, outputs, "logits"), expected)
    same = batch | {"teachers_logits": batch["teachers_logits"][:, :, :1].expand(-1, -1, 3, -1)}
    alone = batch | {"teacher_logits": batch["teachers_logits"][:, :, 0]}
    once = value_and_gradient("forward_kl", alone, outputs, "logits")
    torch.testing.assert_close(value_and_gradient(loss, same, outputs, "logits"), once)  # the weights add up to 1


@pytest.mark.parametrize("weighting", ["cross_entropy", "entropy", "max_probability"])
def test_no_trust_in_scores_weighs_teachers_alike(weighting: str) -> None:
    batch, outputs = taught(10)
    loss = registry.create("multi_teacher", {"weighting": weighting, "alpha": 1e-12})
    third = registry.create("multi_teacher", {"weights": [1 / 3] * 3})
    got, expected = (value_and_gradient(x, batch, outputs, "logits") for x in (loss, third))
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-14)


def test_actor_critic_without_coefficients_is_its_policy() -> None:
    batch, outputs = case(11, source="logits", sample_mask="floats", counts=True)
    nothing = {"value_coefficient": 0.0, "entropy_coefficient": 0.0, "kl_coefficient": 0.0}
    for policy in ("ppo_clip", "reinforce", "gspo"):
        loss = registry.create("actor_critic_total", {**nothing, "policy": {"type": policy}})
        got, expected = (value_and_gradient(x, batch, outputs, "logits") for x in (loss, policy))
        assert torch.equal(got[0], expected[0])
        assert torch.equal(got[1], expected[1])


def test_a_correction_of_the_generator_is_none_of_the_penalty() -> None:
    """Whatever W is, the KL to the reference is that of kl_k3."""
    batch, outputs = further_case(12, "logits", sample_mask="floats", counts=True)
    config = {"policy": {"type": "icepop"}, "value_coefficient": 0.0, "kl_coefficient": 0.4}
    shares = registry.create("actor_critic_total", config).components(batch, ModelOutputs(outputs))
    kl = registry.create("kl_k3", {"coefficient": 0.4})
    torch.testing.assert_close(shares["kl"], kl.compute_loss(batch, outputs))
    batch["generation_logprobs"] = batch["prev_logprobs"] - 50  # W is 0 everywhere
    shares = registry.create("actor_critic_total", config).components(batch, ModelOutputs(outputs))
    assert shares["policy"] == 0
    torch.testing.assert_close(shares["kl"], kl.compute_loss(batch, outputs))
    assert FIELD not in outputs
    assert math.isfinite(shares["kl"].item())
