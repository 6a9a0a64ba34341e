"""Losses of triples: a chosen and a rejected answer, and a third one that is imitated."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from loss_reference import ConfigError, registry
from tests.reference.cases import Tensors, rows_of, value_and_gradient
from tests.reference.preference.answers import answers, one_token

LP = "next_token_logprobs"


def value_of(name: str, batch: Tensors, outputs: Tensors, **config: Any) -> float:
    return value_and_gradient(registry.create(name, config), batch, outputs, LP)[0].item()


@pytest.mark.parametrize(("name", "score"), [("tpo", math.log(2)), ("tpo_l", math.log1p(math.exp(0.5)))])
def test_at_equal_log_probabilities(name: str, score: float) -> None:
    batch, outputs = one_token([0.0] * 3, p=-0.7)
    assert value_of(name, batch, outputs, tpo_alpha=2.0) == pytest.approx(score + 2 * 0.7)


@pytest.mark.parametrize(("loss_type", "value"), [("hinge", 1 - 0.3 * 0.5), ("ipo", (0.5 - 1 / 0.6) ** 2)])
def test_other_shapes_of_the_margin(loss_type: str, value: float) -> None:
    batch, outputs = one_token([0.0] * 3)
    outputs[LP] = torch.tensor([[-0.5], [-1.0], [-1.0]], dtype=torch.float64)
    assert value_of("tpo", batch, outputs, loss_type=loss_type, beta=0.3, tpo_alpha=0.0) == pytest.approx(value)


@pytest.mark.parametrize(
    ("name", "config", "other", "other_config"),
    [
        ("tpo", {"label_smoothing": 0.2, "beta": 0.3}, "cpo", {"alpha": 0.0, "label_smoothing": 0.2, "beta": 0.3}),
        *(
            ("tpo", {"loss_type": t, "beta": 0.3}, "cpo", {"alpha": 0.0, "loss_type": t, "beta": 0.3})
            for t in ("hinge", "ipo")
        ),
        ("tpo_l", {"gamma": 0.8, "beta": 0.3}, "simpo", {"gamma": 0.8, "beta": 0.3}),
    ],
)
def test_tpo_without_imitation(name: str, config: dict[str, Any], other: str, other_config: dict[str, Any]) -> None:
    batch, outputs = answers(13, sample_mask=None)
    got, gradient = value_and_gradient(registry.create(name, {**config, "tpo_alpha": 0.0}), batch, outputs, LP)
    paired = torch.arange(12)[torch.arange(12) % 3 < 2]
    pairs = [{k: x[paired] if len(x) == 12 else x for k, x in tensors.items()} for tensors in (batch, outputs)]
    expected, pair_gradient = value_and_gradient(registry.create(other, other_config), pairs[0], pairs[1], LP)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(gradient[paired], pair_gradient)
    assert (gradient[2::3] == 0).all()


def test_tpo_averages_the_gold_answers_by_answer_or_by_token() -> None:
    batch, outputs = answers(15, sample_mask=None)
    lp, m = outputs[LP][2::3], batch["token_mask"][2::3, 1:]
    nll = {"sequence": -((lp * m).sum(1) / m.sum(1).clamp(min=1)).mean(), "tokens": -(lp * m).sum() / m.sum()}
    without = value_of("tpo", batch, outputs, tpo_alpha=0.0)
    for average, expected in nll.items():
        got = value_of("tpo", batch, outputs, tpo_alpha=2.0, nll_average=average)
        assert got == pytest.approx(without + 2 * expected.item())
    assert nll["sequence"].item() != pytest.approx(nll["tokens"].item(), rel=1e-3)
    assert registry.create("tpo", {"nll_average": "tokens"}).contract.normalizer == "local"


def test_slic_hf_with_a_target() -> None:
    batch, outputs = one_token([0.0] * 6, sample_mask=[1.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    outputs[LP] = torch.tensor([[-1.0], [-0.4], [-3.0], [math.nan], [-1.0], [-1.0]], dtype=torch.float64)
    loss = registry.create("slic_hf", {"delta": 2.0, "lambda_": 0.5})
    value, gradient = value_and_gradient(loss, batch, outputs, LP)
    assert value.item() == pytest.approx(2.0 + 1.0 - 0.4 + 0.5 * 3.0)
    assert gradient.flatten().tolist() == [-1.0, 1.0, -0.5, 0.0, 0.0, 0.0]
    assert loss.contract.group_size == 3
    assert registry.create("slic_hf").contract.group_size is None
    with pytest.raises(ValueError, match="4 rows; groups have 3"):
        loss.compute_loss(rows_of(batch, 0, 4), rows_of(outputs, 0, 4))
    with pytest.raises(ConfigError, match="halves"):
        registry.create("slic_hf", {"lambda_": 0.5, "pair_layout": "halves"})
    with pytest.raises(ConfigError, match="lambda_"):
        registry.create("slic_hf", {"lambda_": -0.5})
