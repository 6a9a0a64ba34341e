"""Distillation from several teachers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from loss_reference import ConfigError, registry
from tests.oracles import composite_objectives as oracle
from tests.reference.agreement import assert_agrees
from tests.reference.cases import Tensors, case, rows_of, value_and_gradient

AGGREGATIONS = ("sum", "averaged_logits", "select_teacher")


def taught(seed: int, teachers: int = 3, **kwargs: Any) -> tuple[Tensors, Tensors]:
    batch, outputs = case(seed, source="logits", **kwargs)
    g = torch.Generator().manual_seed(seed)
    logits = outputs["logits"]
    shape = (*logits.shape[:2], teachers, logits.shape[-1])
    batch["teachers_logits"] = torch.randn(shape, generator=g, dtype=torch.float64).to(logits)
    return batch, {"logits": logits}


def alone(batch: Tensors, teacher: int) -> Tensors:
    return batch | {"teacher_logits": batch["teachers_logits"][:, :, teacher]}


@pytest.mark.parametrize("sample_mask", [None, "zeros", "floats"])
@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 0.25], [0.0, 3.0, 1.0]])
@pytest.mark.parametrize("kl_type", ["forward", "reverse"])
@pytest.mark.parametrize("aggregation", ["sum", "averaged_logits"])
def test_agrees_with_the_oracle(
    aggregation: str, kl_type: str, weights: list[float] | None, sample_mask: str | None
) -> None:
    batch, outputs = taught(1, rows=4, width=4, vocabulary=3, sample_mask=sample_mask)
    config = {"aggregation": aggregation, "kl_type": kl_type, "weights": weights}
    assert_agrees("multi_teacher", oracle.multi_teacher, config, batch, outputs, gradient=sample_mask == "floats")


@pytest.mark.parametrize("sample_mask", [None, "zeros", "floats"])
@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 0.0]])
def test_vocabularies_of_different_sizes_agree_with_the_oracle(
    weights: list[float] | None, sample_mask: str | None
) -> None:
    batch, outputs = taught(9, rows=4, width=4, vocabulary=3, sample_mask=sample_mask, counts=True)
    config = {"weights": weights, "vocabulary_sizes": [3, 2, 128_000]}
    assert_agrees("multi_teacher", oracle.multi_teacher, config, batch, outputs, gradient=sample_mask == "floats")


def test_a_larger_vocabulary_weighs_more_beside_trust_too() -> None:
    """The largest divergence there can be grows with log V."""
    batch, outputs = taught(10)
    config = {"weighting": "entropy", "alpha": 2.0}
    sizes = registry.create("multi_teacher", {**config, "vocabulary_sizes": [4, 16, 2]})
    shares = [w for w, _ in registry.create("multi_teacher", config).weighted_teachers(*scores_of(batch))]
    weights = [w for w, _ in sizes.weighted_teachers(*scores_of(batch))]
    torch.testing.assert_close(torch.stack(weights), torch.stack(shares) * torch.tensor([2.0, 4.0, 1.0]))
    same = registry.create("multi_teacher", {"vocabulary_sizes": [7, 7, 7]})
    expected = value_and_gradient("multi_teacher", batch, outputs, "logits")
    assert torch.equal(value_and_gradient(same, batch, outputs, "logits")[0], expected[0])


def scores_of(batch: Tensors) -> tuple[torch.Tensor, torch.Tensor, Tensors]:
    m = batch["token_mask"][:, 1:] * batch["sample_mask"].unsqueeze(1)
    return batch["teachers_logits"][:, :-1], m, batch


@pytest.mark.parametrize("sample_mask", [None, "zeros", "floats"])
@pytest.mark.parametrize("kl_type", ["forward", "reverse"])
def test_selection_agrees_with_the_oracle(kl_type: str, sample_mask: str | None) -> None:
    batch, outputs = taught(1, rows=4, width=4, vocabulary=3, sample_mask=sample_mask)
    config = {"aggregation": "select_teacher", "kl_type": kl_type}
    assert_agrees("multi_teacher", oracle.multi_teacher, config, batch, outputs, gradient=sample_mask == "floats")


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("kl_type", ["forward", "reverse", "mixed"])
def test_one_teacher_is_itself(aggregation: str, kl_type: str) -> None:
    batch, outputs = taught(2, teachers=1, sample_mask="floats", counts=True)
    config = {"temperature": 0.7}
    loss = registry.create("multi_teacher", {"aggregation": aggregation, "kl_type": kl_type, **config})
    expected = value_and_gradient(registry.create(f"{kl_type}_kl", config), alone(batch, 0), outputs, "logits")
    torch.testing.assert_close(value_and_gradient(loss, batch, outputs, "logits"), expected)


def test_sum_and_selection() -> None:
    batch, outputs = taught(3, sample_mask="floats")
    weights = [0.2, 0.0, 1.5]
    each = [value_and_gradient("forward_kl", alone(batch, i), outputs, "logits") for i in range(3)]
    got = value_and_gradient(registry.create("multi_teacher", {"weights": weights}), batch, outputs, "logits")
    torch.testing.assert_close(got[0], 0.2 * each[0][0] + 1.5 * each[2][0])
    torch.testing.assert_close(got[1], 0.2 * each[0][1] + 1.5 * each[2][1])
    select = registry.create("multi_teacher", {"aggregation": "select_teacher"})
    for best in range(3):
        y = batch["input_ids"][:, 1:].unsqueeze(-1)
        sure = batch["teachers_logits"].clone()
        sure[:, :-1, best] = sure[:, :-1, best].scatter_add(-1, y, torch.full(y.shape, 5.0).double())
        taught_well = batch | {"teachers_logits": sure}
        expected = value_and_gradient("forward_kl", alone(taught_well, best), outputs, "logits")
        torch.testing.assert_close(value_and_gradient(select, taught_well, outputs, "logits"), expected)
    assert select.contract.coupled
    assert not registry.create("multi_teacher").contract.coupled


def test_a_teacher_of_weight_0_is_not_looked_at() -> None:
    batch, outputs = taught(4)
    for aggregation in ("sum", "averaged_logits"):
        loss = registry.create(
            "multi_teacher", {"aggregation": aggregation, "weights": [1, 0, 2], "kl_type": "reverse"}
        )
        expected = value_and_gradient(loss, batch, outputs, "logits")
        batch["teachers_logits"][:, :, 1] = -math.inf
        batch["teachers_logits"][:, :, 1, 0] = 0.0
        got = value_and_gradient(loss, batch, outputs, "logits")
        torch.testing.assert_close(got, expected, rtol=0, atol=0)


@pytest.mark.parametrize("weighting", ["cross_entropy", "entropy", "max_probability"])
def test_weights_by_trust(weighting: str) -> None:
    """The softmax of alpha times the mean score over trained tokens; a sharp alpha leaves the best alone."""
    batch, outputs = taught(5, sample_mask="floats")
    log_p = batch["teachers_logits"][:, :-1].log_softmax(-1)
    m = (batch["token_mask"][:, 1:] * batch["sample_mask"][:, None])[..., None]
    y = batch["input_ids"][:, 1:, None, None].expand(*log_p.shape[:-1], 1)
    score = {
        "cross_entropy": log_p.gather(-1, y)[..., 0],
        "entropy": (log_p.exp() * log_p).sum(-1),
        "max_probability": log_p.exp().amax(-1),
    }[weighting]
    scores = (score * m).sum((0, 1)) / m.sum()
    each = torch.stack([value_and_gradient("forward_kl", alone(batch, i), outputs, "logits")[0] for i in range(3)])
    for alpha in (0.5, 1e5):
        loss = registry.create("multi_teacher", {"weighting": weighting, "alpha": alpha})
        value = value_and_gradient(loss, batch, outputs, "logits")[0]
        torch.testing.assert_close(value, ((alpha * scores).softmax(0) * each).sum())
    torch.testing.assert_close(value, each[scores.argmax()])
    assert loss.contract.coupled


CONFIGS: list[dict[str, Any]] = [
    *({"aggregation": aggregation} for aggregation in AGGREGATIONS),
    *({"weighting": weighting} for weighting in ("cross_entropy", "entropy", "max_probability")),
]


@pytest.mark.parametrize("poison", [math.nan, math.inf])
@pytest.mark.parametrize("config", CONFIGS)
def test_masked_content_reaches_nothing(config: dict[str, Any], poison: float) -> None:
    batch, outputs = taught(6)
    loss = registry.create("multi_teacher", config)
    value, gradient = value_and_gradient(loss, batch, outputs, "logits")
    absent = torch.ones(4, 6, dtype=torch.bool)
    absent[:, :-1] = batch["token_mask"][:, 1:] * batch["sample_mask"][:, None] == 0
    bad = batch | {
        "teachers_logits": batch["teachers_logits"].masked_fill(absent[..., None, None], poison),
        "input_ids": batch["input_ids"].masked_fill(absent.roll(1, 1), -7),
    }
    got = value_and_gradient(loss, bad, {"logits": outputs["logits"].masked_fill(absent[..., None], poison)}, "logits")
    assert torch.equal(got[0], value)
    assert torch.equal(got[1], gradient)
    nothing = value_and_gradient(loss, bad | {"token_mask": torch.zeros(4, 6)}, outputs, "logits")
    assert nothing[0].item() == 0
    assert nothing[1].abs().sum() == 0


def test_microbatches_add_up_where_teachers_are_not_compared() -> None:
    batch, outputs = taught(7, sample_mask="floats", counts=True)
    for config in ({}, {"aggregation": "averaged_logits", "kl_type": "mixed"}):
        loss = registry.create("multi_teacher", config)
        parts = [
            value_and_gradient(loss, rows_of(batch, a, b), rows_of(outputs, a, b), "logits")[0]
            for a, b in ((0, 1), (1, 4))
        ]
        torch.testing.assert_close(parts[0] + parts[1], value_and_gradient(loss, batch, outputs, "logits")[0])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"weights": [0.0, 0.0]}, r"weights=\[0.0, 0.0\]; expected a list of numbers of at least 0, not all 0"),
        ({"weights": [1.0, -1.0]}, r"weights=\[1.0, -1.0\]; expected a list"),
        ({"weights": 1.0}, r"weights=1.0; expected a list"),
        ({"vocabulary_sizes": [5, 1]}, r"vocabulary_sizes=\[5, 1\]; expected a list of whole numbers of at least 2"),
        ({"vocabulary_sizes": []}, r"vocabulary_sizes=\[\]; expected a list"),
        (
            {"vocabulary_sizes": [5, 6], "aggregation": "averaged_logits"},
            r"vocabulary_sizes=\[5, 6\] has no effect beside aggregation='averaged_logits'",
        ),
        (
            {"weights": [1.0], "weighting": "entropy"},
            r"weighting='entropy' has no effect beside weights=\[1.0\]; it is read where weights is None",
        ),
        ({"aggregation": "mean"}, "aggregation='mean'; expected one of 'sum', 'averaged_logits', 'select_teacher'"),
        ({"alpha": 0}, "alpha=0 is out of range"),
    ],
)
def test_config_errors(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"MultiTeacherLoss: {message}"):
        registry.create("multi_teacher", config)


def test_errors() -> None:
    batch, outputs = taught(8)
    with pytest.raises(ValueError, match="weights has 2 entries; teachers_logits has 3 teachers"):
        registry.create("multi_teacher", {"weights": [1, 1]}).compute_loss(batch, outputs)
    with pytest.raises(ValueError, match="vocabulary_sizes has 2 entries; teachers_logits has 3 teachers"):
        registry.create("multi_teacher", {"vocabulary_sizes": [4, 4]}).compute_loss(batch, outputs)
    wrong = batch | {"teachers_logits": batch["teachers_logits"][..., :-1]}
    with pytest.raises(
        ValueError, match=r"teachers_logits has shape \(4, 6, 3, 4\); expected \(4, 6, M, 5\), V scores"
    ):
        registry.create("multi_teacher").compute_loss(wrong, outputs)
