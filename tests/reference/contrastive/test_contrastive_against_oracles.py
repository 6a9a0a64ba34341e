"""Contrastive losses against oracles: plain float64 loops written from the same formulas by somebody else."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from loss_reference import registry
from tests.oracles import contrastive_batches, contrastive_pairs
from tests.reference.agreement import assert_agrees
from tests.reference.cases import Tensors, case
from tests.reference.test_against_oracles import arrays

Config = dict[str, Any]
# The parameters of siglip are float32 numbers.
SIGLIP = partial(contrastive_pairs.siglip, scale=math.exp(torch.tensor(math.log(10.0)).item()))
ORACLES: dict[str, tuple[Callable[..., float], list[Config]]] = {
    "ntxent": (contrastive_batches.ntxent, [{"temperature": 1.0}]),
    "supcon": (contrastive_batches.supcon, [{"temperature": 1.0}]),
    "circle": (contrastive_batches.circle, [{"gamma": 1.0}, {"margin": 0.0}, {"margin": 1.0}]),
    "multi_similarity": (contrastive_batches.multi_similarity, [{"alpha": 1.0, "beta": 3.0, "base": -0.5}]),
    "clip_symmetric": (contrastive_pairs.clip_symmetric, [{"temperature": 1.0}]),
    "siglip": (SIGLIP, []),
    "n_pairs": (contrastive_pairs.n_pairs, []),
    "triplet_margin": (
        contrastive_pairs.triplet_margin,
        [{"margin": 0.0}, {"soft": True}, {"average": "nonzero"}, {"average": "nonzero", "margin": 0.05}],
    ),
    "margin_contrastive": (
        contrastive_pairs.margin_contrastive,
        [{"squared": True}, {"positive_margin": 0.5, "negative_margin": 2.0}, {"negative_margin": 0.0}],
    ),
}
OUTPUTS = {
    "clip_symmetric": ("image_embeddings", "text_embeddings"),
    "siglip": ("image_embeddings", "text_embeddings"),
    "n_pairs": ("anchor_embeddings", "positive_embeddings"),
    "triplet_margin": ("anchor_embeddings", "positive_embeddings", "negative_embeddings"),
}
RUNS = [(name, config) for name, (_, configs) in ORACLES.items() for config in [{}, *configs]]


def contrastive_case(name: str, seed: int, rows: int = 6, **kwargs: Any) -> tuple[Tensors, Tensors]:
    """Return rows of three labels or of several views, no index pair of a row with itself, and what the loss trains."""
    batch, _ = case(seed, rows=rows, **kwargs)
    g = torch.Generator().manual_seed(seed)
    batch["labels"] = torch.randint(3, (rows,), generator=g)
    for pairs in (batch["positive_pairs"], batch["negative_pairs"]):
        pairs[:, 1] += pairs[:, 0] == pairs[:, 1]
        pairs[:, 1] %= rows
    fields = OUTPUTS.get(name, ("embeddings",))
    return batch, {field: torch.randn(rows, 3, generator=g, dtype=torch.float64) for field in fields}


@pytest.mark.parametrize("sample_mask", [None, "zeros", "floats"])
@pytest.mark.parametrize(("name", "config"), RUNS)
def test_value_and_gradient(name: str, config: Config, sample_mask: str | None) -> None:
    batch, outputs = contrastive_case(name, 5, sample_mask=sample_mask)
    assert_agrees(name, ORACLES[name][0], config, batch, outputs, gradient=name != "circle")


@pytest.mark.parametrize("sample_mask", [None, "floats"])
@pytest.mark.parametrize("config", [{"gamma": 4.0}, {"gamma": 1.0, "margin": 0.0}, {"gamma": 1.0, "margin": 1.0}])
def test_the_gradient_of_circle_leaves_its_weights_alone(config: Config, sample_mask: str | None) -> None:
    batch, outputs = contrastive_case("circle", 6, sample_mask=sample_mask)
    assert_agrees("circle", partial(contrastive_batches.circle, held=arrays(outputs)), config, batch, outputs)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(("name", "config"), RUNS)
def test_value_on_many_cases(name: str, config: Config, seed: int) -> None:
    batch, outputs = contrastive_case(name, 100 + seed, rows=3 + seed, sample_mask="floats", counts=True)
    assert_agrees(name, ORACLES[name][0], config, batch, outputs, gradient=False)


@pytest.mark.parametrize("labels", [[0, 0, 0, 0, 0, 0], [0, 1, 2, 3, 4, 5], [0, 1, 0, 1, 2, 2]])
@pytest.mark.parametrize("name", ["ntxent", "supcon", "circle", "multi_similarity"])
def test_no_negatives_or_no_positives(name: str, labels: list[int]) -> None:
    batch, outputs = contrastive_case(name, 9, sample_mask=None)
    batch["labels"] = torch.tensor(labels)
    assert_agrees(name, ORACLES[name][0], {}, batch, outputs, gradient=name != "circle")


@pytest.mark.parametrize("name", ORACLES)
def test_content_at_weight_zero_and_nothing_left(name: str) -> None:
    batch, outputs = contrastive_case(name, 7, sample_mask="zeros")
    for embeddings in outputs.values():
        embeddings[2] = torch.nan
    assert_agrees(name, ORACLES[name][0], {}, batch, outputs, gradient=False)
    batch["sample_mask"].zero_()
    assert_agrees(name, ORACLES[name][0], {}, batch, outputs, gradient=False)


def test_every_loss_of_the_family_is_compared() -> None:
    family = {name for name in registry.names() if registry.get(name).contract.family == "contrastive"}
    assert family - {"contrastive", "pairwise_contrastive", "infonce"} <= set(ORACLES)
