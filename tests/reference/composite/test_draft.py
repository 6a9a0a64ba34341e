"""A draft model trained beside its policy."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from loss_reference import ConfigError, ModelOutputs, registry
from tests.reference.cases import Tensors, case, rows_of, value_and_gradient
from tests.reference.composite.helpers import WithMetrics


def drafted(seed: int, **kwargs: Any) -> tuple[Tensors, Tensors]:
    batch, outputs = case(seed, source="logits", **kwargs)
    g = torch.Generator().manual_seed(seed)
    logits = outputs["logits"]
    return batch, {
        "logits": logits,
        "draft_logits": torch.randn(logits.shape, generator=g, dtype=torch.float64).to(logits),
    }


def as_teacher(batch: Tensors, outputs: Tensors) -> tuple[Tensors, Tensors]:
    return batch | {"teacher_logits": outputs["logits"]}, {"logits": outputs["draft_logits"]}


@pytest.mark.parametrize("sample_mask", [None, "zeros", "floats"])
@pytest.mark.parametrize("policy", [{"type": "nll"}, {"type": "ppo_clip", "aggregation": "seq_mean_token_mean"}])
def test_is_the_policy_loss_plus_soft_ce(policy: dict[str, Any], sample_mask: str | None) -> None:
    batch, outputs = drafted(1, sample_mask=sample_mask, counts=True)
    loss = registry.create("draft", {"policy": policy, "draft_weight": 0.3, "temperature": 2.0})
    alone = registry.create(policy["type"], policy)
    policy_part = value_and_gradient(alone, batch, outputs, "logits")
    draft_part = value_and_gradient(
        registry.create("soft_ce", {"temperature": 2.0}), *as_teacher(batch, outputs), "logits"
    )
    value, of_policy = value_and_gradient(loss, batch, outputs, "logits")
    torch.testing.assert_close(value, policy_part[0] + 0.3 * draft_part[0])
    torch.testing.assert_close(of_policy, policy_part[1])  # the draft model does not pull at the policy
    torch.testing.assert_close(value_and_gradient(loss, batch, outputs, "draft_logits")[1], 0.3 * draft_part[1])
    shares = loss.components(batch, ModelOutputs(outputs))
    torch.testing.assert_close(shares["policy"] + shares["draft"], value)


def test_a_perfect_draft_has_no_gradient() -> None:
    batch, outputs = drafted(2)
    same = outputs | {"draft_logits": outputs["logits"] + 3.0}
    _, gradient = value_and_gradient("draft", batch, same, "draft_logits")
    assert gradient.abs().max() < 1e-15


def test_weight_0_leaves_the_policy_alone() -> None:
    batch, outputs = drafted(3)
    loss = registry.create("draft", {"draft_weight": 0.0})
    del outputs["draft_logits"]
    torch.testing.assert_close(
        value_and_gradient(loss, batch, outputs, "logits"), value_and_gradient("nll", batch, outputs, "logits")
    )
    assert list(loss.components(batch, outputs)) == ["policy"]


@pytest.mark.parametrize("ahead", [1, 2, 9])
def test_ahead_compares_with_later_positions(ahead: int) -> None:
    """The draft model that says at t what the policy says at t + ahead is perfect."""
    batch, outputs = drafted(4, sample_mask="floats")
    loss = registry.create("draft", {"ahead": ahead})
    shifted = outputs | {"draft_logits": outputs["logits"].roll(-ahead, dims=1)}
    value, gradient = value_and_gradient(loss, batch, shifted, "draft_logits")
    assert gradient.abs().max() < 1e-15
    log_p = outputs["logits"][:, :-1].log_softmax(-1)
    m = batch["token_mask"][:, 1:] * batch["sample_mask"][:, None]
    entropy = (-(log_p.exp() * log_p).sum(-1) * m)[:, ahead:].sum() / m.sum()
    torch.testing.assert_close(value - value_and_gradient("nll", batch, outputs, "logits")[0], entropy)
    if ahead == 1:
        moved = value_and_gradient(loss, batch, outputs, "draft_logits")[1]
        used = moved.abs().sum(-1) != 0
        assert torch.equal(used[:, :-2], m[:, 1:] != 0)
        assert not used[:, -2:].any()


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_masked_content_reaches_nothing(poison: float) -> None:
    batch, outputs = drafted(5)
    absent = torch.ones(4, 6, dtype=torch.bool)
    absent[:, :-1] = batch["token_mask"][:, 1:] * batch["sample_mask"][:, None] == 0
    bad = {field: x.masked_fill(absent[..., None], poison) for field, x in outputs.items()}
    for field in outputs:
        expected = value_and_gradient("draft", batch, outputs, field)
        got = value_and_gradient("draft", batch, bad, field)
        assert torch.equal(got[0], expected[0])
        assert torch.equal(got[1], expected[1])
        nothing = value_and_gradient("draft", batch | {"sample_mask": torch.zeros(4)}, bad, field)
        assert nothing[0].item() == 0
        assert nothing[1].abs().sum() == 0


def test_microbatches_add_up() -> None:
    batch, outputs = drafted(6, sample_mask="floats", counts=True)
    loss = registry.create("draft", {"ahead": 1})
    parts = [
        value_and_gradient(loss, rows_of(batch, a, b), rows_of(outputs, a, b), "logits")[0] for a, b in ((0, 1), (1, 4))
    ]
    torch.testing.assert_close(parts[0] + parts[1], value_and_gradient(loss, batch, outputs, "logits")[0])


def test_saturated_logits_stay_finite_in_float32() -> None:
    batch, outputs = drafted(7, dtype=torch.float32)
    for scale in (1e4, -1e4):
        value, gradient = value_and_gradient(
            "draft", batch, outputs | {"draft_logits": scale * outputs["logits"]}, "draft_logits"
        )
        assert math.isfinite(value)
        assert torch.isfinite(gradient).all()


def test_metrics_and_errors() -> None:
    batch, outputs = drafted(8)
    loss = registry.create("draft")
    loss.policy_loss = WithMetrics({"value": 2.0})
    result = loss.compute_loss(batch, outputs | {"next_token_logprobs": torch.zeros(4, 5)})
    assert isinstance(result, tuple)
    assert result[1] == {"policy/seen": 3.0}
    with pytest.raises(ValueError, match=r"draft_logits has shape \(4, 6, 4\); expected \(4, 6, 5\), that of logits"):
        registry.create("draft").compute_loss(batch, outputs | {"draft_logits": outputs["draft_logits"][..., 1:]})
    for config, message in (
        ({"policy": {}}, r"DraftLoss: policy=\{\}; expected a config such as"),
        ({"draft_weight": -1}, "DraftLoss: draft_weight=-1 is out of range"),
        ({"ahead": 0.5}, "DraftLoss: ahead=0.5; expected a whole number"),
    ):
        with pytest.raises(ConfigError, match=message):
            registry.create("draft", config)
