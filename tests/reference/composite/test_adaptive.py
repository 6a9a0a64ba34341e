from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from loss_reference import AdaptiveLoss, ConfigError, DPOLoss, ModelOutputs, NLLLoss
from tests.oracles import composite as oracle
from tests.reference.composite.helpers import Constant, WithMetrics, gradient_of, oracle_values, usual, value_of


def adaptive(cls: type[AdaptiveLoss] = AdaptiveLoss, /, **config: Any) -> AdaptiveLoss:
    return cls(config)


class OfConstant(AdaptiveLoss):
    """An adaptive loss of a value set from outside."""

    value = 1.0

    def compute_base_loss(self, batch: Any, model_outputs: Any) -> Any:
        return Constant({"value": self.value}).compute_loss(batch, model_outputs)


@pytest.mark.parametrize("target", [1.0, 0.3, -2.0])
@pytest.mark.parametrize("mode", ["scale", "literal"])
def test_equals_the_oracle(mode: str, target: float) -> None:
    batch, outputs = usual(0, sample_mask="floats")
    loss = adaptive(mode=mode, target_loss=target, adaptation_rate=0.5)
    base, _ = oracle_values(batch, outputs)
    expected = oracle.adaptive(base, adaptation_rate=0.5, target_loss=target, mode=mode, lower=0.1, upper=10.0)
    assert value_of(loss, batch, outputs).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("value", "factor"), [(1.0, 1.0), (3.0, 1.2), (1000.0, 10.0), (-200.0, 0.1), (0.0, 0.9)])
def test_scale_factor_and_its_limits(value: float, factor: float) -> None:
    loss = OfConstant()
    loss.value = value
    batch, outputs = usual(0)
    torch.testing.assert_close(value_of(loss, batch, outputs).item(), value * factor)
    torch.testing.assert_close(gradient_of(loss, batch, outputs), torch.full((4, 5), factor, dtype=torch.float64))


def test_literal_has_the_gradient_of_its_base() -> None:
    batch, outputs = usual(1)
    literal = adaptive(mode="literal", adaptation_rate=3.0)
    assert torch.equal(gradient_of(literal, batch, outputs), gradient_of(DPOLoss(), batch, outputs))
    assert not torch.equal(value_of(literal, batch, outputs), value_of(DPOLoss(), batch, outputs))


@pytest.mark.parametrize("mode", ["scale", "literal"])
def test_rate_0_and_base_at_target_leave_the_base(mode: str) -> None:
    batch, outputs = usual(1)
    base = value_of(DPOLoss(), batch, outputs)
    assert torch.equal(value_of(adaptive(mode=mode, adaptation_rate=0.0), batch, outputs), base)
    assert torch.equal(value_of(adaptive(mode=mode, target_loss=base.item()), batch, outputs), base)


def test_base_from_the_config() -> None:
    batch, outputs = usual(1)
    loss = adaptive(base={"type": "nll"}, adaptation_rate=0.0)
    assert torch.equal(value_of(loss, batch, outputs), value_of(NLLLoss(), batch, outputs))
    assert loss.contract.level == "token"
    assert loss.contract.options["adaptation_rate"].reduces_to == {0.0: "nll"}


@pytest.mark.parametrize("mode", ["scale", "literal"])
def test_components_add_up(mode: str) -> None:
    batch, outputs = usual(1)
    loss = adaptive(mode=mode, adaptation_rate=2.0)
    parts = loss.components(batch, outputs)
    assert list(parts) == ["base", "adaptation"]
    torch.testing.assert_close(parts["base"] + parts["adaptation"], value_of(loss, batch, outputs))


def test_metrics_of_the_base_are_kept() -> None:
    class Own(AdaptiveLoss):
        def compute_base_loss(self, batch: Any, model_outputs: Any) -> Any:
            return WithMetrics({"value": 2.0}).compute_loss(batch, model_outputs)

    result = Own().compute_loss(*usual())
    assert isinstance(result, tuple)
    assert result[1] == {"base/seen": 3.0}


@pytest.mark.parametrize("mode", ["scale", "literal"])
def test_all_masked(mode: str) -> None:
    batch, outputs = usual(1)
    batch["sample_mask"] = torch.zeros(4, dtype=torch.float64)
    assert value_of(adaptive(mode=mode), batch, outputs).item() == {"scale": 0.0, "literal": -0.1}[mode]


def test_no_value_leaves_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, outputs = usual(1)
    leaves = ModelOutputs({k: x.requires_grad_() for k, x in outputs.items()})
    base = DPOLoss().compute_loss(batch, leaves)
    loss = OfConstant()
    monkeypatch.setattr(OfConstant, "compute_base_loss", lambda *_: base)
    for name in ("item", "__float__", "__bool__", "tolist"):
        monkeypatch.setattr(torch.Tensor, name, lambda *_: pytest.fail("a value was read"))
    loss.compute_loss(batch, leaves)


REFUSED = [
    ({"target_loss": 0}, "target_loss=0; the loss is divided by it, expected another number"),
    ({"lower": 2.0, "upper": 1.0}, "lower=2.0 is above upper=1.0"),
    ({"mode": "scaled"}, "mode='scaled'; expected one of 'scale', 'literal'; did you mean 'scale'?"),
    ({"adaptation_rate": -1}, "adaptation_rate=-1 is out of range; expected a number at least 0"),
    (
        {"target": 1.0},
        "unknown config key 'target'; expected base, adaptation_rate, target_loss, mode, lower, upper; "
        "did you mean 'target_loss'?",
    ),
]


@pytest.mark.parametrize(("config", "message"), REFUSED)
def test_refused_at_construction(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        AdaptiveLoss(config)
    assert str(error.value) == f"AdaptiveLoss: {message}"


def test_end_point_of_the_rate_only_where_the_limits_leave_it() -> None:
    for config, kept in (({}, True), ({"upper": 0.5}, False), ({"mode": "literal"}, True)):
        loss = AdaptiveLoss(config)
        assert bool(loss.contract.options["adaptation_rate"].reduces_to) == kept


def test_contract() -> None:
    contract = AdaptiveLoss().contract
    assert (contract.surrogate_gradient, contract.coupled, contract.lower_bound) == (True, True, 0.0)
    assert adaptive(mode="literal").contract.lower_bound == pytest.approx(-0.1)
    assert list(adaptive(mode="literal").contract.exempt) == ["empty_batch"]
    assert not adaptive(mode="literal", adaptation_rate=0.0).contract.exempt
    assert adaptive(target_loss=-1.0).contract.direction == {}
    assert adaptive(base={"type": "ppo_clip"}).contract.lower_bound == -math.inf
    assert adaptive(mode="literal", target_loss=-1.0).contract.lower_bound is None
    assert OfConstant().contract is AdaptiveLoss.contract
