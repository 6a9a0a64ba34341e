from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from loss_reference import DPOLoss, LossFunction, ModelOutputs, registry
from tests.reference.cases import case


class Squared(LossFunction):
    def compute_loss(self, batch: Any, model_outputs: Any) -> Tensor:
        result: Tensor = model_outputs["x"].square().sum()
        return result


class WithMetrics(LossFunction):
    def compute_loss(self, batch: Any, model_outputs: Any) -> Any:
        return model_outputs["x"].sum(), {"n": 1}


class Trained(LossFunction):
    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self.log_temperature = nn.Parameter(torch.zeros(()))

    def compute_loss(self, batch: Any, model_outputs: Any) -> Tensor:
        result: Tensor = model_outputs["x"].sum() * self.log_temperature.exp()
        return result


def test_model_outputs_are_read_by_key_and_by_attribute() -> None:
    outputs = ModelOutputs(logits=torch.ones(2))
    assert outputs.logits is outputs["logits"]
    assert isinstance(outputs, dict)
    assert not hasattr(outputs, "hidden")
    with pytest.raises(AttributeError) as error:
        _ = outputs.hidden
    assert str(error.value) == "model outputs have no 'hidden'; there are: logits"
    with pytest.raises(AttributeError, match="there are: none"):
        _ = ModelOutputs().hidden


def test_a_field_named_like_a_method_of_dict_is_read_by_key() -> None:
    outputs = ModelOutputs(values=torch.ones(2), logits=torch.ones(1))
    assert torch.equal(outputs["values"], torch.ones(2))
    assert len(list(outputs.values())) == 2


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_model_outputs_copy(duplicate: Any) -> None:
    copied = duplicate(ModelOutputs(logits=torch.ones(2)))
    assert type(copied) is ModelOutputs
    assert torch.equal(copied.logits, torch.ones(2))


def test_calling_is_compute_loss() -> None:
    outputs = {"x": torch.tensor([1.0, 2.0])}
    assert Squared()({}, outputs).item() == 5.0
    assert Squared().components({}, outputs)["loss"].item() == 5.0
    assert WithMetrics().components({}, outputs)["loss"].item() == 3.0
    assert WithMetrics()({}, outputs)[1] == {"n": 1}


def test_compute_loss_has_to_be_defined() -> None:
    class Nothing(LossFunction):
        pass

    with pytest.raises(NotImplementedError, match=r"^Nothing must define compute_loss\(self, batch, model_outputs\)$"):
        Nothing()({}, {})


def test_backward_accumulates_exactly_the_gradient() -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    loss = Squared()
    for _ in range(2):
        loss.backward(loss({}, {"x": x}))
    assert torch.equal(x.grad, torch.tensor([4.0, 8.0]))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.ones(2, requires_grad=True), "loss has shape (2,); expected a 0-dim tensor"),
        (torch.ones(()), "loss is detached from every trainable input"),
        (torch.tensor(float("nan"), requires_grad=True), "loss is nan; its gradient would destroy the model"),
    ],
)
def test_backward_refuses(value: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match="loss") as error:
        Squared().backward(value)
    assert str(error.value) == f"Squared.backward: {message}"


def test_own_parameters_are_trained_moved_and_saved() -> None:
    loss = Trained()
    loss.backward(loss({}, {"x": torch.ones(3)}))
    assert loss.log_temperature.grad == 3.0
    assert list(loss.state_dict()) == ["log_temperature"]
    assert loss.double().log_temperature.dtype == torch.float64


COMPOSED = {"loss_functions": [{"type": "dpo", "beta": 0.5}, {"type": "nll"}]}
CONFIGS = {"composed": COMPOSED, "dynamic_weight": COMPOSED, "custom": {"custom_weight": 0.0}}


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize("name", ["dpo", "nll", "custom", "multi_objective", "adaptive", "composed", "dynamic_weight"])
def test_copies_of_a_loss_give_the_same(name: str, duplicate: Any) -> None:
    loss = registry.create(name, CONFIGS.get(name))
    copied = duplicate(loss)
    batch, outputs = case(0)
    assert torch.equal(copied(batch, outputs), loss(batch, outputs))
    assert copied.contract == loss.contract
    assert copied.config == loss.config
    copied.load_state_dict(loss.state_dict())


def test_a_subclass_inherits_contract_and_settings() -> None:
    class Mine(DPOLoss):
        def compute_loss(self, batch: Any, model_outputs: Any) -> Tensor:
            return super().compute_loss(batch, model_outputs) + 1.0

    batch, outputs = case(0)
    assert Mine.contract is DPOLoss.contract
    assert torch.equal(Mine({"beta": 0.5})(batch, outputs), DPOLoss({"beta": 0.5})(batch, outputs) + 1.0)
