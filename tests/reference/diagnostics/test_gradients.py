from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from loss_reference import DPOLoss, LossFunction, ModelOutputs, NLLLoss, analyze_loss_gradients
from tests.reference.cases import case, value_and_gradient


class WithModel(LossFunction):
    """``forward`` of a held model, as the guide presumes with ``loss_fn.model``."""

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self.scale = nn.Parameter(torch.tensor(3.0))
        self.model = nn.Linear(2, 1)
        self.spare = nn.Parameter(torch.ones(2))
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)

    def compute_loss(self, batch: Any, model_outputs: Any) -> Tensor:
        result: Tensor = self.scale * self.model(batch["x"]).sum() + self.frozen.sum()
        return result


def test_norms_of_model_outputs() -> None:
    batch, outputs = case(0)
    report = analyze_loss_gradients(DPOLoss(), batch, outputs)
    expected = value_and_gradient("dpo", batch, outputs, "next_token_logprobs")[1]
    assert report.norms == {"model_outputs.next_token_logprobs": pytest.approx(expected.norm().item())}
    assert report.largest["model_outputs.next_token_logprobs"] == pytest.approx(expected.abs().max().item())
    assert report.unused == ("model_outputs.values", "model_outputs.rewards", "model_outputs.embeddings")
    assert report.total_norm == pytest.approx(expected.norm().item())
    assert report.loss == pytest.approx(DPOLoss()(batch, outputs).item())
    assert report.healthy


def test_parameters_own_and_of_the_model() -> None:
    loss = WithModel()
    x = torch.tensor([[1.0, 2.0]])
    report = analyze_loss_gradients(loss, {"x": x}, {})
    assert set(report.norms) == {"scale", "model.weight", "model.bias"}
    assert report.norms["model.weight"] == pytest.approx(3 * math.sqrt(5))
    assert report.norms["model.bias"] == pytest.approx(3.0)
    assert report.unused == ("spare",)
    assert report.total_norm == pytest.approx(math.sqrt(sum(norm**2 for norm in report.norms.values())))


def test_a_model_that_is_no_submodule() -> None:
    class Holder:
        model = nn.Linear(2, 1)

        def compute_loss(self, batch: Any, model_outputs: Any) -> Any:
            return self.model(batch["x"]).sum(), {"metric": 1.0}

    report = analyze_loss_gradients(Holder(), {"x": torch.ones(1, 2)}, {})
    assert set(report.norms) == {"model.weight", "model.bias"}


def test_leaves_no_trace() -> None:
    batch, outputs = case(0)
    leaf = torch.zeros(4, 5, dtype=torch.float64, requires_grad=True)
    attached = ModelOutputs(next_token_logprobs=outputs["next_token_logprobs"] + leaf.exp())
    analyze_loss_gradients(NLLLoss(), batch, attached)
    assert leaf.grad is None
    loss = WithModel()
    analyze_loss_gradients(loss, {"x": torch.ones(1, 2)}, {})
    assert all(parameter.grad is None for parameter in loss.parameters())
    result = NLLLoss()(batch, attached)
    result.backward()  # the graph below the model outputs is still there
    assert leaf.grad is not None
    plain = {"next_token_logprobs": outputs["next_token_logprobs"]}
    analyze_loss_gradients(NLLLoss(), batch, plain)
    assert not plain["next_token_logprobs"].requires_grad


def test_works_under_no_grad() -> None:
    with torch.no_grad():
        assert analyze_loss_gradients(DPOLoss(), *case(0)).healthy


def test_exploding_and_non_finite() -> None:
    class Steep(LossFunction):
        def compute_loss(self, batch: Any, model_outputs: Any) -> Tensor:
            return (100 * model_outputs["logits"]).sum() + model_outputs["values"].sqrt().sum()

    outputs = {"logits": torch.ones(4), "values": torch.tensor([0.0, 1.0])}
    report = analyze_loss_gradients(Steep(), {}, outputs)
    assert report.exploding == ("model_outputs.logits", "model_outputs.values")
    assert report.non_finite == ("model_outputs.values",)
    assert not report.healthy
    assert str(report) == (
        "loss = 401.0000, total gradient norm = inf\n"
        "model_outputs.logits: grad_norm = 200.0000  (large)\n"
        "model_outputs.values: grad_norm = inf  (large)"
    )
    assert analyze_loss_gradients(Steep(), {}, outputs, threshold=200.0).exploding == ("model_outputs.values",)


def test_a_detached_loss_uses_nothing() -> None:
    class Detached(LossFunction):
        def compute_loss(self, batch: Any, model_outputs: Any) -> Tensor:
            result: Tensor = model_outputs["logits"].detach().sum()
            return result

    report = analyze_loss_gradients(Detached(), {}, {"logits": torch.ones(4)})
    assert (report.norms, report.unused, report.healthy) == ({}, ("model_outputs.logits",), False)
    assert str(report).splitlines()[1] == "model_outputs.logits: no gradient, the loss does not depend on it"


@pytest.mark.parametrize("threshold", [0.0, -1.0, math.nan])
def test_threshold_is_checked(threshold: float) -> None:
    with pytest.raises(ValueError, match="expected a number above 0"):
        analyze_loss_gradients(DPOLoss(), *case(0), threshold=threshold)


def test_half_precision_and_integers() -> None:
    class Big(LossFunction):
        def compute_loss(self, batch: Any, model_outputs: Any) -> Tensor:
            result: Tensor = (model_outputs["logits"] * 300).sum()
            return result

    outputs = {"logits": torch.ones(100_000, dtype=torch.float16) / 1e5, "ids": torch.ones(3, dtype=torch.int64)}
    report = analyze_loss_gradients(Big(), {}, outputs)
    assert report.norms == {"model_outputs.logits": pytest.approx(300 * math.sqrt(1e5), rel=1e-3)}
