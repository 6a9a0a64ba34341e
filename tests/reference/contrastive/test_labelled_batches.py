"""NT-Xent, SupCon, circle and multi-similarity: neutral points, reductions to each other, and extremes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from loss_reference import ConfigError, registry
from loss_reference.contrastive.pair_weighting import circle
from tests.reference.cases import value_and_gradient

LABELLED = ("ntxent", "supcon", "circle", "multi_similarity")
E = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
TWO_VIEWS = [0, 1, 2, 0, 1, 2]


def run(
    name: str, e: Tensor, labels: list[int], config: dict[str, Any] | None = None, **batch: Tensor
) -> tuple[float, Tensor]:
    loss = registry.create(name, config)
    value, gradient = value_and_gradient(
        loss, {"labels": torch.tensor(labels), **batch}, {"embeddings": e}, "embeddings"
    )
    return value.item(), gradient


def test_equal_similarities() -> None:
    same = torch.ones(6, 2)
    assert run("ntxent", same, TWO_VIEWS)[0] == pytest.approx(math.log(5), rel=1e-6)  # log(2 N - 1) for N pairs
    assert run("ntxent", same, [0, 0, 0, 1, 1, 1])[0] == pytest.approx(math.log(1 + 3), rel=1e-6)
    assert run("supcon", same, TWO_VIEWS)[0] == pytest.approx(math.log(5), rel=1e-6)
    assert run("supcon", same, [0, 0, 0, 1, 1, 2])[0] == pytest.approx(math.log(5), rel=1e-6)
    # At similarity 1 the four negatives weigh 1.4 and lie 0.6 beyond m, the positive weighs 0.4 and lies 0.4 beyond 1 - m.
    expected = 80 * (1.4 * 0.6 - 0.4 * 0.4) + math.log(4 * 1)
    assert run("circle", same, TWO_VIEWS)[0] == pytest.approx(expected, rel=1e-6)
    expected = math.log1p(math.exp(-1)) / 2 + math.log1p(4 * math.exp(25)) / 50
    assert run("multi_similarity", same, TWO_VIEWS)[0] == pytest.approx(expected, rel=1e-6)


def test_one_positive_makes_supcon_of_ntxent() -> None:
    for t in (0.1, 1.0):
        value, gradient = run("supcon", E, TWO_VIEWS, {"temperature": t})
        expected, expected_gradient = run("ntxent", E, TWO_VIEWS, {"temperature": t})
        assert value == pytest.approx(expected)
        torch.testing.assert_close(gradient, expected_gradient)
    assert run("supcon", E, [0, 0, 0, 1, 1, 2])[0] != pytest.approx(run("ntxent", E, [0, 0, 0, 1, 1, 2])[0], rel=1e-3)


def test_ntxent_is_infonce_over_all_positive_pairs() -> None:
    positive = [[i, j] for i in range(6) for j in range(6) if i != j and TWO_VIEWS[i] == TWO_VIEWS[j]]
    negative = [[i, j] for i in range(6) for j in range(6) if TWO_VIEWS[i] != TWO_VIEWS[j]]
    batch = {"positive_pairs": torch.tensor(positive), "negative_pairs": torch.tensor(negative)}
    expected = registry.create("infonce", {"temperature": 0.3}).compute_loss(batch, {"embeddings": E})
    assert run("ntxent", E, TWO_VIEWS, {"temperature": 0.3})[0] == pytest.approx(expected.item())


def test_supcon_is_at_least_log_of_the_positives() -> None:
    labels = [0, 0, 0, 0, 1, 1]
    clustered = torch.eye(2)[labels].double() * 3
    smallest = (4 * math.log(3) + 2 * math.log(1)) / 6
    assert run("supcon", clustered, labels, {"temperature": 1e-3})[0] == pytest.approx(smallest, rel=1e-12)
    assert run("supcon", E, labels)[0] > smallest


@pytest.mark.parametrize("name", LABELLED)
def test_the_length_of_an_embedding_does_not_matter(name: str) -> None:
    longer = E * torch.tensor([[1.0], [1e-3], [5.0], [1e6], [1.0], [30.0]], dtype=torch.float64)
    assert run(name, longer, TWO_VIEWS)[0] == pytest.approx(run(name, E, TWO_VIEWS)[0])


@pytest.mark.parametrize("name", LABELLED)
@pytest.mark.parametrize("content", [math.nan, math.inf, 1e30])
def test_an_absent_row_is_neither_anchor_nor_positive_nor_negative(name: str, content: float) -> None:
    labels = [0, 0, 1, 1, 0, 1]
    expected, expected_gradient = run(name, E[:5], labels[:5])
    e = E.clone()
    e[5] = content
    for mask in ([1.0, 1, 1, 1, 1, 0], [0.5, 0.1, 3, 1, 7, 0]):  # present is present
        value, gradient = run(name, e, labels, sample_mask=torch.tensor(mask))
        assert value == pytest.approx(expected)
        torch.testing.assert_close(gradient[:5], expected_gradient)
        assert gradient[5].abs().sum() == 0


@pytest.mark.parametrize("labels", [[0, 0, 0, 0, 0, 0], [0, 1, 2, 3, 4, 5], [0, 1, 2, 2, 1, 0]])
@pytest.mark.parametrize("name", LABELLED)
def test_anchors_without_rivals_or_positives_hide_no_nan(name: str, labels: list[int]) -> None:
    config = (
        {} if name == "multi_similarity" else {"temperature": 1e-4} if name in ("ntxent", "supcon") else {"gamma": 1e4}
    )
    with torch.autograd.set_detect_anomaly(True, check_nan=True):
        value, gradient = run(name, E.float(), labels, config)
    assert math.isfinite(value)
    assert torch.isfinite(gradient).all()
    alone = len(set(labels)) == 6
    together = len(set(labels)) == 1
    if (name in ("ntxent", "circle") and (alone or together)) or (name == "supcon" and alone):
        assert value == 0
        assert gradient.abs().sum() == 0


@pytest.mark.parametrize("name", LABELLED)
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-9])
def test_a_vector_without_length_has_a_finite_gradient(name: str, scale: float) -> None:
    e = E.float() * torch.tensor([[1.0], [scale], [1.0], [1.0], [1.0], [1.0]])
    value, gradient = run(name, e, TWO_VIEWS)
    assert math.isfinite(value)
    assert torch.isfinite(gradient).all()


def test_the_weights_of_circle_are_constant() -> None:
    s = torch.tensor(
        [[1.0, 0.8, 0.3, -0.6], [0.8, 1.0, 0.1, 0.5], [0.3, 0.1, 1.0, 0.9], [-0.6, 0.5, 0.9, 1.0]]
    ).double()
    labels = torch.tensor([0, 0, 1, 1])
    positive = (labels == labels[:, None]) & ~torch.eye(4, dtype=torch.bool)
    negative = labels != labels[:, None]
    s.requires_grad_()
    term = circle(s, positive, negative, gamma=2.0, margin=0.25)[0]
    (gradient,) = torch.autograd.grad(term, s)
    a_p, a_n = 1.25 - 0.8, [0.3 + 0.25, 0.0]  # similarity -0.6 is so low that its weight is 0
    e_n = [math.exp(2 * a * (x - 0.25)) for a, x in zip(a_n, (0.3, -0.6), strict=True)]
    both = sum(e_n) * math.exp(-2 * a_p * (0.8 - 0.75))
    assert term.item() == pytest.approx(math.log1p(both))
    sigma = both / (1 + both)
    expected = [0, -2 * a_p * sigma, 2 * a_n[0] * sigma * e_n[0] / sum(e_n), 0]
    assert gradient[0].tolist() == pytest.approx(expected)
    assert gradient[1:].abs().sum() == 0


@pytest.mark.parametrize("name", LABELLED)
def test_autocast_rounds_no_similarity(name: str) -> None:
    expected = run(name, E.float(), TWO_VIEWS)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert run(name, E.float(), TWO_VIEWS)[0] == expected


@pytest.mark.parametrize(
    ("name", "key", "value", "expected"),
    [
        *((name, "temperature", 0.0, "a number above 0") for name in ("ntxent", "supcon")),
        ("circle", "gamma", 0, "a number above 0"),
        ("circle", "margin", 1.5, "a number at least 0 and at most 1"),
        ("multi_similarity", "alpha", -2.0, "a number above 0"),
        ("multi_similarity", "beta", 0.0, "a number above 0"),
        ("multi_similarity", "base", math.inf, "a finite number"),
    ],
)
def test_config_errors(name: str, key: str, value: float, expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        registry.create(name, {key: value})
    assert f"{registry.get(name).__name__}: {key}={value!r}" in str(error.value)
    assert str(error.value).endswith(f"expected {expected}")


@pytest.mark.parametrize("name", LABELLED)
def test_shapes_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"labels has shape \(5,\); expected \(6,\)"):
        run(name, E, TWO_VIEWS[:5])
    with pytest.raises(ValueError, match=r"embeddings has shape \(6, 2, 2\); expected \(B, D\)"):
        run(name, E.reshape(6, 2, 2), TWO_VIEWS)
