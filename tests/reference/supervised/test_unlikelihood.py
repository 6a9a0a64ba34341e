"""Unlikelihood: which tokens are candidates, and log(1 - p) at its ends."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from loss_reference import registry
from loss_reference.supervised.unlikelihood import context_candidates, log_not, repeated_ngrams
from tests.reference.cases import Tensors, value_and_gradient


def row(ids: list[int], mask: list[float], vocabulary: int = 6) -> tuple[Tensors, Tensors]:
    batch = {"input_ids": torch.tensor([ids]), "token_mask": torch.tensor([mask], dtype=torch.float64)}
    return batch, {"logits": torch.zeros(1, len(ids), vocabulary, dtype=torch.float64)}


def extra(batch: Tensors, outputs: Tensors, **config: Any) -> float:
    """Return the unlikelihood part, summed over tokens, in units of -log(1 - 1/6)."""
    parts = [
        registry.create("unlikelihood", {"aggregation": "seq_mean_token_sum", **each}).compute_loss(batch, outputs)
        for each in (config, {"alpha": 0.0})
    ]
    return float(parts[0] - parts[1]) / -math.log1p(-1 / 6)


@pytest.mark.parametrize(
    ("ids", "mask", "candidates"),
    [
        ([0, 1, 2, 3], [0, 1, 1, 1], 0 + 1 + 2),
        ([0, 1, 1, 1], [0, 1, 1, 1], 0),  # the target itself is none
        ([0, 1, 2, 1, 2], [0, 1, 1, 1, 1], 0 + 1 + 1 + 1),  # each token once
        ([4, 5, 1, 2, 3], [1, 0, 1, 1, 1], 0 + 1 + 2),  # neither token 0 nor the untrained 5
        ([0, 1, 2, 3], [0, 1, 0, 1], 0 + 1),
    ],
)
def test_context(ids: list[int], mask: list[float], candidates: int) -> None:
    assert extra(*row(ids, mask)) == pytest.approx(candidates)


@pytest.mark.parametrize(
    ("ids", "mask", "n", "repeated"),
    [
        ([0, 1, 2, 1, 2, 1], [0, 1, 1, 1, 1, 1], 1, 3),
        ([0, 1, 2, 1, 2, 1], [0, 1, 1, 1, 1, 1], 2, 2),
        ([0, 1, 2, 1, 2, 1], [0, 1, 1, 1, 1, 1], 3, 1),
        ([0, 1, 2, 1, 2, 1], [0, 1, 1, 1, 1, 1], 4, 0),
        ([0, 1, 2, 1, 2, 1], [0, 1, 1, 0, 1, 1], 2, 0),  # a hole breaks every 2-gram that holds it
        ([0, 1, 2, 1, 2, 1], [0, 1, 1, 0, 1, 1], 1, 2),
        ([0, 3, 3, 3, 3], [0, 1, 1, 1, 1], 2, 2),  # occurrences may overlap
        ([3, 3, 3, 3], [1, 1, 1, 1], 2, 1),  # token 0 is trained by nobody
        ([0, 1], [0, 1], 5, 0),
    ],
)
def test_ngrams(ids: list[int], mask: list[float], n: int, repeated: int) -> None:
    assert extra(*row(ids, mask), candidates="repeated_ngrams", ngram=n) == pytest.approx(repeated)


def test_rows_do_not_see_each_other() -> None:
    y, trained = torch.tensor([[1, 2], [2, 1]]), torch.ones(2, 2, dtype=torch.bool)
    assert context_candidates(y, trained, 3).nonzero().tolist() == [[0, 1, 1], [1, 1, 2]]
    assert not repeated_ngrams(y, trained, 1).any()
    assert context_candidates(y[:, :0], trained[:, :0], 3).shape == (2, 0, 3)


def exact_log_not(z: list[float]) -> list[float]:
    top = max(z)
    e = [math.exp(x - top) for x in z]
    return [math.log(sum(e[:i] + e[i + 1 :])) - math.log(sum(e)) for i in range(len(z))]


@pytest.mark.parametrize("z", [[0.0, 0.0], [3.0, 1.0, -1.0], [40.0, 0.0, 1.0], [90.0, 2.0, 2.0], [1.0, -80.0, 1.0]])
def test_log_not_keeps_its_digits(z: list[float]) -> None:
    got = log_not(torch.tensor(z))  # float32
    assert got.tolist() == pytest.approx(exact_log_not(z), rel=1e-6, abs=1e-7)


def test_log_not_of_a_certain_candidate_falls_linearly() -> None:
    logits = torch.tensor([[1e4, 0.0, 0.0]], requires_grad=True)
    value = log_not(logits)[0, 0]
    assert value.item() == pytest.approx(math.log(2) - 1e4)
    (gradient,) = torch.autograd.grad(value, logits)
    assert gradient[0].tolist() == pytest.approx([-1, 0.5, 0.5])


@pytest.mark.parametrize("only", [[0.0, -math.inf, -math.inf], [0.0]])
def test_the_only_possible_token_spoils_no_gradient(only: list[float]) -> None:
    batch = {"input_ids": torch.tensor([[0, 0, 0]]), "token_mask": torch.ones(1, 3)}
    logits: Tensor = torch.tensor([[only] * 3])
    with torch.autograd.set_detect_anomaly(True, check_nan=True):
        value, gradient = value_and_gradient("unlikelihood", batch, {"logits": logits}, "logits")
    assert value == 0
    assert gradient.abs().sum() == 0
    log_certain = registry.create("unlikelihood", {"candidates": "repeated_ngrams", "ngram": 1})
    assert log_certain.compute_loss(batch, {"logits": logits}) == math.inf
