"""The examples do what their first lines say: the right ones equal the reference, the wrong ones are wrong in the way named."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from loss_reference import (
    AdaptiveLoss,
    ComposedLoss,
    DPOLoss,
    DynamicWeightLoss,
    LossFunction,
    MultiObjectiveLoss,
    NLLLoss,
    registry,
)
from tests.reference.cases import value_and_gradient
from tests.reference.composite.helpers import gradient_of, usual, value_of

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.fixture(autouse=True)
def registry_as_it_was() -> Iterator[None]:
    before = dict(registry.registry)
    yield
    registry.registry = before


def example(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def all_masked() -> tuple[Any, Any]:
    batch, outputs = usual()
    batch["sample_mask"] = torch.zeros(4, dtype=torch.float64)
    return batch, outputs


def test_every_example_is_tested() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    for path in EXAMPLES.glob("*.py"):
        assert f'example("{path.stem}")' in text


def test_custom_dpo() -> None:
    loss = example("custom_dpo_loss").CustomDPOLoss({"custom_weight": 0.5})
    batch, outputs = usual(sample_mask="floats")
    batch["sample_mask"][1] = batch["sample_mask"][0]
    nll = -outputs["next_token_logprobs"][0::2] * batch["token_mask"][0::2, 1:]
    lengths = batch["token_mask"][0::2, 1:].sum(dim=1).clamp(min=1)
    w = torch.minimum(batch["sample_mask"][0::2], batch["sample_mask"][1::2])
    expected = value_of(DPOLoss(), batch, outputs) + 0.5 * (nll.sum(dim=1) / lengths * w).sum() / w.sum().clamp(min=1)
    torch.testing.assert_close(value_of(loss, batch, outputs), expected)
    assert value_of(loss, *all_masked()).item() == 0.0


@pytest.mark.parametrize("loss", [{"weights": [0.5, 2.0]}, {}])
def test_multi_objective(loss: dict[str, Any]) -> None:
    batch, outputs = usual()
    guide = example("multi_objective_loss").MultiObjectiveLoss
    assert torch.equal(value_of(guide(loss), batch, outputs), value_of(MultiObjectiveLoss(loss), batch, outputs))
    assert guide({"objectives": []}).compute_loss(batch, outputs) == 0


def test_adaptive() -> None:
    batch, outputs = usual()
    loss = example("adaptive_loss").AdaptiveLoss({})
    literal = AdaptiveLoss({"mode": "literal"})
    torch.testing.assert_close(value_of(loss, batch, outputs), value_of(literal, batch, outputs))
    assert torch.equal(gradient_of(loss, batch, outputs), gradient_of(DPOLoss(), batch, outputs))
    assert value_of(loss, *all_masked()).item() == pytest.approx(-0.1)


def test_contrastive_overflows() -> None:
    loss = example("contrastive_loss").ContrastiveLoss({})
    pairs = {"positive_pairs": torch.tensor([[0, 1]]), "negative_pairs": torch.tensor([[0, 2]])}
    embeddings = torch.tensor([[1.0, 0.0], [0.3, 1.0], [0.1, 0.0]])
    value, _ = value_and_gradient(loss, pairs, {"embeddings": embeddings}, "embeddings")
    assert value.item() == pytest.approx(math.log1p(math.exp(-2.0)), rel=1e-6)
    value, _ = value_and_gradient(loss, pairs, {"embeddings": 10 * embeddings}, "embeddings")
    assert value.isnan()


def test_composed() -> None:
    batch, outputs = usual()
    module = example("composed_loss")
    ours = ComposedLoss({"loss_functions": module.DEFAULT})
    assert torch.equal(value_of(module.ComposedLoss({}), batch, outputs), value_of(ours, batch, outputs))
    assert module.ComposedLoss({"loss_functions": []}).compute_loss(batch, outputs) == 0


def test_dynamic_weight() -> None:
    batch, outputs = usual()
    guide = example("dynamic_weight_loss").DynamicWeightLoss({})
    literal = DynamicWeightLoss({"loss_functions": [{"type": "dpo"}, {"type": "nll"}], "mode": "literal"})
    torch.testing.assert_close(value_of(guide, batch, outputs), value_of(literal, batch, outputs))
    torch.testing.assert_close(gradient_of(guide, batch, outputs), gradient_of(literal, batch, outputs))
    assert min(guide.compute_dynamic_weights([torch.tensor(500.0), torch.tensor(1.0)])) < 0
    with pytest.raises(ZeroDivisionError):
        guide.compute_loss(*all_masked())


def test_registration() -> None:
    scaled, custom = example("registration").build()
    batch, outputs = usual()
    assert torch.equal(value_of(scaled, batch, outputs), 0.5 * value_of(NLLLoss(), batch, outputs))
    assert torch.equal(value_of(custom, batch, outputs), value_of(NLLLoss(), batch, outputs))


def test_debugging(capsys: pytest.CaptureFixture[str]) -> None:
    example("debugging").main()
    printed = capsys.readouterr().out
    for words in (
        "dpo: ",
        "sft: ",
        "total: ",
        "model_outputs.next_token_logprobs: grad_norm = ",
        "stable: True - steady",
    ):
        assert words in printed


def test_masked_mean_bug_ignores_the_mask() -> None:
    batch, outputs = usual()
    loss: LossFunction = example("masked_mean_bug").MaskedMeanLoss()
    torch.testing.assert_close(value_of(loss, batch, outputs), -outputs["next_token_logprobs"].mean())
    assert torch.count_nonzero(gradient_of(loss, batch, outputs)) == outputs["next_token_logprobs"].numel()


@pytest.mark.parametrize("counts", [False, True])
def test_correct_masked_nll(counts: bool) -> None:
    batch, outputs = usual(sample_mask="floats", counts=counts)
    loss: LossFunction = example("correct_masked_nll").MaskedNLLLoss()
    torch.testing.assert_close(value_of(loss, batch, outputs), value_of(NLLLoss(), batch, outputs))
    torch.testing.assert_close(gradient_of(loss, batch, outputs), gradient_of(NLLLoss(), batch, outputs))
    batch["sample_mask"] = torch.ones(1, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"sample_mask has shape \(1,\); expected \(4,\)"):
        value_of(loss, batch, outputs)
