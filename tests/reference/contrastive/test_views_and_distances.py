"""CLIP, SigLIP, N-pair, triplets and margins: neutral points, reductions, and extremes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from loss_reference import ConfigError, LossFunction, registry
from tests.reference.cases import Tensors, value_and_gradient

G = torch.Generator().manual_seed(5)
A, P, N = (torch.randn(5, 3, dtype=torch.float64, generator=G) for _ in range(3))
FIELDS = {
    "clip_symmetric": ("image_embeddings", "text_embeddings"),
    "siglip": ("image_embeddings", "text_embeddings"),
    "n_pairs": ("anchor_embeddings", "positive_embeddings"),
    "triplet_margin": ("anchor_embeddings", "positive_embeddings", "negative_embeddings"),
}


def run(name: str, *views: Tensor, config: dict[str, Any] | None = None, **batch: Tensor) -> float:
    return value_of(registry.create(name, config), FIELDS[name], *views, **batch)


def value_of(loss: LossFunction, fields: tuple[str, ...], *views: Tensor, **batch: Tensor) -> float:
    value = loss.compute_loss(batch, dict(zip(fields, views, strict=True)))
    assert isinstance(value, Tensor)
    return value.item()


def gradients(name: str, *views: Tensor, config: dict[str, Any] | None = None, **batch: Tensor) -> list[Tensor]:
    outputs = dict(zip(FIELDS[name], views, strict=True))
    return [value_and_gradient(registry.create(name, config), batch, outputs, field)[1] for field in FIELDS[name]]


def test_equal_similarities() -> None:
    same = torch.ones(5, 3, dtype=torch.float64)
    assert run("clip_symmetric", same, same) == pytest.approx(math.log(5))
    assert run("n_pairs", same, same) == pytest.approx(math.log(5))
    siglip = registry.create("siglip")
    with torch.no_grad():
        siglip.bias.fill_(0.0)
    orthogonal = torch.tensor([[1.0, 0, 0]] * 5), torch.tensor([[0.0, 1, 0]] * 5)
    assert value_of(siglip, FIELDS["siglip"], *orthogonal) == pytest.approx(5 * math.log(2))
    assert run("triplet_margin", A, P, P, config={"margin": 0.3}) == pytest.approx(0.3)
    assert run("triplet_margin", A, P, P, config={"soft": True}) == pytest.approx(math.log(2))


def test_clip_is_two_cross_entropies_and_symmetric() -> None:
    z = F.cosine_similarity(A[:, None], P[None], dim=-1) / 0.2
    rows, columns = F.cross_entropy(z, torch.arange(5)), F.cross_entropy(z.T, torch.arange(5))
    value = run("clip_symmetric", A, P, config={"temperature": 0.2})
    assert value == pytest.approx((rows + columns).item() / 2)
    assert run("clip_symmetric", P, A, config={"temperature": 0.2}) == pytest.approx(value)
    expected = F.cross_entropy(A @ P.T, torch.arange(5)).item()
    assert run("n_pairs", A, P) == pytest.approx(expected)


def test_siglip_by_hand_and_its_parameters() -> None:
    loss = registry.create("siglip")
    assert [name for name, _ in loss.named_parameters()] == ["log_scale", "bias"]
    x, y = torch.eye(2, 3), torch.eye(2, 3)
    terms = [math.log1p(math.exp(-(10 - 10))), math.log1p(math.exp(0 - 10))]  # the pair, and one other
    assert value_of(loss, FIELDS["siglip"], x, y) == pytest.approx(sum(terms), rel=1e-6)
    value = loss.compute_loss({}, {"image_embeddings": x, "text_embeddings": y})
    value.backward()
    # dz / d log t = t x.y is 10 for pairs and 0 for others; d z / d b = 1 for both.
    assert loss.log_scale.grad.item() == pytest.approx(-0.5 * 10)
    assert loss.bias.grad.item() == pytest.approx(-0.5 + 1 / (1 + math.exp(10)), rel=1e-5)
    for copy in (loss.double(), loss.half()):
        assert value_of(copy, FIELDS["siglip"], x.double(), y.double()) == pytest.approx(sum(terms), rel=2e-2)


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("content", [math.nan, math.inf, 1e30])
def test_an_absent_row_is_in_no_view(name: str, content: float) -> None:
    views = [A.clone(), P.clone(), N.clone()][: len(FIELDS[name])]
    expected = run(name, *(v[:4] for v in views))
    for v in views:
        v[4] = content
    mask = torch.tensor([1.0, 1, 1, 1, 0])
    assert run(name, *views, sample_mask=mask) == pytest.approx(expected)
    for gradient in gradients(name, *views, sample_mask=mask):
        assert gradient[4].abs().sum() == 0
        assert torch.isfinite(gradient).all()
    assert run(name, *views, sample_mask=0 * mask) == 0


@pytest.mark.parametrize("name", FIELDS)
def test_extremes_and_shapes(name: str) -> None:
    config = {"temperature": 1e-4} if name == "clip_symmetric" else {}
    views = [1e4 * v.float() for v in (A, P, N)[: len(FIELDS[name])]]
    assert math.isfinite(run(name, *views, config=config))
    assert all(bool(torch.isfinite(g).all()) for g in gradients(name, *views, config=config))
    last = FIELDS[name][-1]
    with pytest.raises(ValueError, match=rf"{last} has shape \(4, 3\); expected \(5, 3\), that of {FIELDS[name][0]}"):
        run(name, *[A] * (len(views) - 1), A[:4])


@pytest.mark.parametrize("swap", [False, True])
def test_triplets_are_those_of_torch(swap: bool) -> None:
    a, p, n = (P, A, N) if swap else (A, P, N)
    expected = F.triplet_margin_loss(a, p, n, margin=0.7).item()
    assert run("triplet_margin", a, p, n, config={"margin": 0.7}) == pytest.approx(expected, abs=1e-5)  # its 1e-6


def test_the_mean_of_triplets() -> None:
    a = torch.zeros(3, 1)
    p, n = torch.tensor([[2.0], [0.5], [1.0]]), torch.tensor([[1.0], [9.0], [0.5]])  # terms 2, 0, 1.5
    mask = torch.tensor([1.0, 2.0, 0.5])
    assert run("triplet_margin", a, p, n, sample_mask=mask) == pytest.approx((2 + 0.5 * 1.5) / 3.5)
    nonzero = registry.create("triplet_margin", {"average": "nonzero"})
    outputs = dict(zip(FIELDS["triplet_margin"], (a, p, n), strict=True))
    assert nonzero.compute_loss({"sample_mask": mask}, outputs) == pytest.approx((2 + 0.5 * 1.5) / 1.5)
    assert nonzero.contract.coupled
    assert not registry.create("triplet_margin").contract.coupled


def test_at_distance_0_the_gradient_is_0() -> None:
    outputs = {"embeddings": torch.ones(2, 3)}
    batch = {"positive_pairs": torch.tensor([[0, 1]]), "negative_pairs": torch.tensor([[1, 0]])}
    for config in ({}, {"squared": True}):
        loss = registry.create("margin_contrastive", config)
        value, gradient = value_and_gradient(loss, batch, outputs, "embeddings")
        assert value == pytest.approx(0.5 if config else 1.0)
        assert gradient.abs().sum() == 0
    for gradient in gradients("triplet_margin", A, A, A):
        assert gradient.abs().sum() == 0


def test_margins_by_hand() -> None:
    e = torch.tensor([[0.0], [3.0], [3.5], [4.0]])
    batch: Tensors = {
        "positive_pairs": torch.tensor([[0, 1], [1, 2]]),
        "negative_pairs": torch.tensor([[2, 3], [0, 3], [1, 3]]),
        "sample_mask": torch.tensor([1.0, 1.0, 0.5, 2.0]),
    }
    config = {"positive_margin": 1.0, "negative_margin": 1.5}
    positive, negative = (2.0, 0.0), (1.0, 0.0, 0.5)  # weights 1, 0.5 and 0.5, 1, 1
    linear = (positive[0] + 0) / 1.5 + (0.5 * negative[0] + negative[2]) / 2.5
    squared = (positive[0] ** 2 / 2) / 1.5 + (0.5 * negative[0] ** 2 / 2 + negative[2] ** 2 / 2) / 2.5
    for extra, expected in (({}, linear), ({"squared": True}, squared)):
        loss = registry.create("margin_contrastive", config | extra)
        assert loss.compute_loss(batch, {"embeddings": e}) == pytest.approx(expected)
    with pytest.raises(ValueError, match="positive_pairs holds rows 0 to 4; the embeddings have rows 0 to 3"):
        loss.compute_loss(batch | {"positive_pairs": torch.tensor([[0, 4]])}, {"embeddings": e})


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("clip_symmetric", {"temperature": 0.0}),
        ("triplet_margin", {"margin": -1.0}),
        ("triplet_margin", {"average": "none"}),
        ("margin_contrastive", {"positive_margin": -0.1}),
        ("margin_contrastive", {"negative_margin": -0.1}),
        ("margin_contrastive", {"squared": 1}),
        ("siglip", {"scale": 10.0}),
        ("n_pairs", {"temperature": 1.0}),
    ],
)
def test_config_errors(name: str, config: dict[str, Any]) -> None:
    (key,) = config
    with pytest.raises(ConfigError, match=rf"{registry.get(name).__name__}: .*{key}.*; expected "):
        registry.create(name, config)
