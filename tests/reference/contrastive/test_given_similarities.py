"""Contrastive losses of similarities of one's choice: shifts, scales, and who is pushed where."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from loss_reference import ContrastiveLoss, InfoNCELoss, registry
from tests.reference.cases import value_and_gradient

S = torch.randn(5, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
BATCH = {
    "positive_pairs": torch.tensor([[0, 1], [2, 3], [4, 0]]),
    "negative_pairs": torch.tensor([[0, 2], [2, 4], [4, 1]]),
}


class GivenPairwise(ContrastiveLoss):
    """The similarity of rows i and j is entry (i, j) of what stands for the embeddings."""

    def compute_similarity(self, pairs: Tensor, model_outputs: Mapping[str, Tensor]) -> Tensor:
        return model_outputs["embeddings"][pairs[:, 0], pairs[:, 1]]


class GivenInfoNCE(InfoNCELoss):
    """The same of InfoNCE."""

    compute_similarity = GivenPairwise.compute_similarity


@pytest.mark.parametrize("cls", [GivenPairwise, GivenInfoNCE])
def test_shift_and_scale(cls: type[ContrastiveLoss]) -> None:
    value, gradient = value_and_gradient(cls({"temperature": 0.5}), BATCH, {"embeddings": S}, "embeddings")
    assert gradient.sum() == pytest.approx(0, abs=1e-15)
    assert (gradient[BATCH["positive_pairs"].unbind(1)] < 0).all()
    assert (gradient[BATCH["negative_pairs"].unbind(1)] > 0).all()
    moved = value_and_gradient(cls({"temperature": 0.5}), BATCH, {"embeddings": S + 40.0}, "embeddings")
    torch.testing.assert_close(moved, (value, gradient))
    scaled = value_and_gradient(cls({"temperature": 1.5}), BATCH, {"embeddings": 3 * S}, "embeddings")
    torch.testing.assert_close(scaled, (value, gradient / 3))


def views(name: str, config: dict[str, Any], *x: Tensor) -> Tensor:
    names = (
        ("image_embeddings", "text_embeddings") if name != "n_pairs" else ("anchor_embeddings", "positive_embeddings")
    )
    value = registry.create(name, config).compute_loss({}, dict(zip(names, x, strict=True)))
    assert isinstance(value, Tensor)
    return value


def test_n_pairs_feels_the_length_and_clip_does_not() -> None:
    x, y = S[:, :3], S[:, 2:]
    torch.testing.assert_close(views("clip_symmetric", {}, 7 * x, y / 3), views("clip_symmetric", {}, x, y))
    torch.testing.assert_close(views("n_pairs", {}, 7 * x, y / 7), views("n_pairs", {}, x, y))
    assert abs(views("n_pairs", {}, 7 * x, y) - views("n_pairs", {}, x, y)) > 0.1
    unit, other = torch.nn.functional.normalize(x, dim=1), torch.nn.functional.normalize(y, dim=1)
    rows, columns = (views("n_pairs", {}, *pair) for pair in ((unit / 0.2, other), (other / 0.2, unit)))
    torch.testing.assert_close(views("clip_symmetric", {"temperature": 0.2}, x, y), (rows + columns) / 2)
