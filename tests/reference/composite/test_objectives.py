"""Objectives made of loss values: dynamic loss scaling, learnt weights, moving weights, flooding, actor-critic."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from loss_reference import ConfigError, LossFunction, ModelOutputs, registry
from loss_reference.composite.dynamic_loss_scaling import scale_to
from loss_reference.composite.flooding import FloodingLoss, flooding
from loss_reference.composite.uncertainty_weighting import UncertaintyWeightingLoss
from tests.oracles import composite_objectives as oracle
from tests.reference.cases import Tensors, case, value_and_gradient
from tests.reference.composite.helpers import WithMetrics, f64, usual

BOTH: list[dict[str, Any]] = [{"type": "nll"}, {"type": "forward_kl", "temperature": 2.0}]


def logits_case(seed: int = 0, **kwargs: Any) -> tuple[Tensors, Tensors]:
    batch, outputs = case(seed, source="logits", sample_mask="floats", **kwargs)
    return batch, {"logits": outputs["logits"]}


def parts(batch: Tensors, outputs: Tensors) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
    return tuple(value_and_gradient(registry.create(x["type"], x), batch, outputs, "logits") for x in BOTH)


@pytest.mark.parametrize("seed", range(3))
def test_dynamic_loss_scaling(seed: int) -> None:
    batch, outputs = logits_case(seed)
    ce, kd = parts(batch, outputs)
    loss = registry.create("dynamic_loss_scaling", {"distillation": BOTH[1], "supervised": BOTH[0]})
    value, gradient = value_and_gradient(loss, batch, outputs, "logits")
    assert value.item() == pytest.approx(oracle.dynamic_loss_scaling(ce[0].item(), kd[0].item()), rel=1e-12)
    assert value.item() == pytest.approx(2 * ce[0].item(), rel=1e-12)
    torch.testing.assert_close(gradient, ce[1] + ce[0] / kd[0] * kd[1])
    shares = loss.components(batch, ModelOutputs(outputs))
    assert list(shares) == ["distillation", "supervised"]
    torch.testing.assert_close(sum(shares.values()), value)
    assert loss.contract.lower_bound == 0
    negative = registry.create("dynamic_loss_scaling", {"supervised": {"type": "ppo_clip"}})
    assert not negative.contract.declares("lower_bound")


@pytest.mark.parametrize(("ce", "kd", "scale"), [(3.0, 0.5, 6.0), (-3.0, 0.5, 6.0), (3.0, -0.5, 6.0), (3.0, 0.0, 1.0)])
def test_scale(ce: float, kd: float, scale: float) -> None:
    leaf = f64(kd).requires_grad_()
    assert scale_to(f64(ce), leaf).item() == scale
    assert not scale_to(f64(ce), leaf).requires_grad
    assert oracle.dynamic_loss_scaling(ce, kd) == pytest.approx(scale * kd + ce)


def test_equal_models_train_on_the_labels_alone() -> None:
    batch, _ = logits_case(1)
    same = {"logits": batch["teacher_logits"]}
    value, gradient = value_and_gradient("dynamic_loss_scaling", batch, same, "logits")
    nll = value_and_gradient("nll", batch, same, "logits")
    torch.testing.assert_close(value, nll[0])
    torch.testing.assert_close(gradient, nll[1])


@pytest.mark.parametrize(("level", "sign"), [(0.0, 1.0), (0.5, 1.0), (50.0, -1.0)])
def test_flooding(level: float, sign: float) -> None:
    batch, outputs = logits_case(4)
    loss = FloodingLoss({"level": level})
    nll, slope = value_and_gradient("nll", batch, outputs, "logits")
    assert 0.5 < nll < 50
    value, gradient = value_and_gradient(loss, batch, outputs, "logits")
    assert value.item() == pytest.approx(oracle.flooding(nll.item(), level), rel=1e-12)
    torch.testing.assert_close(gradient, sign * slope)
    assert loss.contract.lower_bound == level
    at_level = f64(level).requires_grad_()
    assert torch.autograd.grad(flooding(at_level, level), at_level)[0] == 0


@pytest.mark.parametrize("level", [0.0, 0.5])
def test_flooding_of_nothing(level: float) -> None:
    """The law of the empty batch really fails above 0, as its contract says, and its gradient is 0 all the same."""
    batch, outputs = logits_case(5)
    loss = FloodingLoss({"level": level})
    value, gradient = value_and_gradient(loss, batch | {"sample_mask": torch.zeros(4)}, outputs, "logits")
    assert value.item() == 2 * level
    assert gradient.abs().sum() == 0
    assert ("empty_batch" in loss.contract.exempt) == (level > 0)


def test_what_a_part_is_exempt_from() -> None:
    """A law that the part breaks, the wrapper breaks; laws about the part's own settings are none of the wrapper's."""
    for part, law in (("z_loss", "logit_shift"), ("mixed_kl", "option_effect")):
        assert law in registry.create(part).contract.exempt
        kept = FloodingLoss({"loss": {"type": part}}).contract.exempt
        assert set(kept) == ({law} if law == "logit_shift" else set())


def test_actor_critic_total() -> None:
    batch, outputs = case(6, source="logits", sample_mask="floats")
    config = {"value_coefficient": 0.3, "policy": {"type": "ppo_clip", "ratio_clip_min": 0.5}}
    loss = registry.create("actor_critic_total", config)
    shares = loss.components(batch, ModelOutputs(outputs))
    assert list(shares) == ["policy", "value"]
    policy = value_and_gradient(registry.create("ppo_clip", {"ratio_clip_min": 0.5}), batch, outputs, "logits")
    value = value_and_gradient("value_mse", batch, outputs, "values")
    torch.testing.assert_close(
        value_and_gradient(loss, batch, outputs, "logits"), (policy[0] + 0.3 * value[0], policy[1])
    )
    torch.testing.assert_close(value_and_gradient(loss, batch, outputs, "values")[1], 0.3 * value[1])
    alone = registry.create("actor_critic_total", {"value_coefficient": 0.0})
    del batch["returns"], outputs["values"]
    torch.testing.assert_close(
        alone.compute_loss(batch, outputs), registry.create("ppo_clip").compute_loss(batch, outputs)
    )


@pytest.mark.skipif(not {"entropy_bonus", "kl_k3"} <= set(registry.names()), reason="its parts are not there yet")
def test_actor_critic_with_entropy_and_kl() -> None:
    batch, outputs = case(7, source="logits", sample_mask="floats")
    loss = registry.create("actor_critic_total", {"entropy_coefficient": 0.2, "kl_coefficient": 0.1})
    plain = value_and_gradient("actor_critic_total", batch, outputs, "logits")
    m = batch["token_mask"][:, 1:] * batch["sample_mask"][:, None]
    log_pi = outputs["logits"][:, :-1].log_softmax(-1)
    entropy = -((log_pi.exp() * log_pi).sum(-1) * m).sum() / m.sum()
    d = log_pi.gather(-1, batch["input_ids"][:, 1:, None])[..., 0] - batch["reference_policy_logprobs"][:, 1:]
    k3 = ((torch.exp(-d) - 1 + d) * m).sum() / m.sum()
    got = value_and_gradient(loss, batch, outputs, "logits")[0]
    torch.testing.assert_close(got, plain[0] - 0.2 * entropy + 0.1 * k3)
    assert list(loss.components(batch, ModelOutputs(outputs))) == ["policy", "value", "entropy", "kl"]


def test_metrics_are_kept_under_the_name() -> None:
    batch, outputs = usual()
    scaling = registry.create("dynamic_loss_scaling")
    scaling.kd, scaling.ce = WithMetrics({"value": 0.5}), WithMetrics({"value": 2.0})
    flooded = registry.create("flooding", {"level": 1.0})
    flooded.flooded = WithMetrics({"value": 0.25})
    learnt = UncertaintyWeightingLoss({"losses": [{"type": "nll"}]})
    learnt.loss_functions = [WithMetrics({"value": 3.0})]  # type: ignore[assignment]
    results: dict[str, tuple[LossFunction, float]] = {
        "distillation": (scaling, 4.0), "loss": (flooded, 1.75), "nll": (learnt, 1.5)
    }  # fmt: skip
    for prefix, (loss, expected) in results.items():
        result = loss.compute_loss(batch, ModelOutputs(outputs))
        assert isinstance(result, tuple)
        assert result[0].item() == pytest.approx(expected)
        assert result[1][f"{prefix}/seen"] == 3.0


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        (
            "dynamic_loss_scaling",
            {"distillation": {}},
            r"distillation=\{\}; expected a config such as \{'type': 'nll'\}",
        ),
        ("dynamic_loss_scaling", {"supervised": "nll"}, "supervised='nll'; expected a config such as"),
        ("flooding", {"loss": {"type": "nll", "weight": 2.0}}, "loss has a 'weight', which nothing reads here"),
        ("flooding", {"level": math.inf}, "level=inf; expected a finite number"),
        ("uncertainty_weighting", {}, r"UncertaintyWeightingLoss needs losses, a list of configs such as"),
        ("uncertainty_weighting", {"losses": {"type": "nll"}}, r"losses=\{'type': 'nll'\}; expected a list of configs"),
        (
            "dwa",
            {"losses": [{"type": "nll", "weight": 1}]},
            "one of the losses has a 'weight', which nothing reads here",
        ),
        ("dwa", {"losses": BOTH, "temperature": 0}, "DWALoss: temperature=0 is out of range"),
        ("actor_critic_total", {"policy": {"kind": "nll"}}, r"policy=\{'kind': 'nll'\}; expected a config such as"),
        ("actor_critic_total", {"kl_coefficient": -1}, "kl_coefficient=-1 is out of range"),
    ],
)
def test_config_errors(name: str, config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        registry.create(name, config)
