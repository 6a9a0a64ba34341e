"""Contrastive oracles of labelled batches against numbers worked out by hand."""

import math
from typing import Any

import numpy as np
import pytest

from .contrastive import infonce
from .contrastive_batches import circle, multi_similarity, ntxent, supcon
from .shared_rules import check_absence
from .test_oracles import LOG2, NAN, Data, Oracle, arr, near
from .test_oracles_more import SP1

ALL: list[Oracle] = [ntxent, supcon, circle, multi_similarity]


def labelled(labels: list[int], *rows: Any) -> tuple[Data, Data]:
    return {"labels": np.array(labels)}, {"embeddings": arr(*rows)}


def corner() -> tuple[Data, Data]:
    # Two rows alike and one at a right angle: the anchors 0 and 1 have similarity 1 to their positive, 0 to the other.
    return labelled([4, 4, 9], (2, 0), (3, 0), (0, 5))


def case(seed: int) -> tuple[Data, Data]:
    rng = np.random.default_rng(seed)
    batch: Data = {"labels": np.array([0, 1, 0, 2, 1, 0]), "sample_mask": np.ones(6)}
    return batch, {"embeddings": rng.normal(size=(6, 3))}


def test_one_corner_by_hand() -> None:
    # log(1 + e^{-1/tau}) for both positive pairs; row 2 has no positive.
    for oracle in (ntxent, supcon):
        assert oracle(*corner(), temperature=1.0) == near(SP1 - 1)
        assert oracle(*corner(), temperature=0.5) == near(math.log1p(math.exp(-2)))
    # At margin 1/2: positive exponent -g (1/2)(1/2), negative g (1/2)(-1/2); g = 4 gives softplus(-2).
    assert circle(*corner(), gamma=4.0, margin=0.5) == near(math.log1p(math.exp(-2)))
    # Anchors 0 and 1: log(1 + e^{-(1 - 1/2) 2})/2 + log(1 + e^{-b/2})/b with b = 2; anchor 2: two negatives of 0.
    pair = (SP1 - 1) / 2 + (SP1 - 1) / 2
    assert multi_similarity(*corner(), beta=2.0) == near((2 * pair + math.log(1 + 2 / math.e) / 2) / 3)


def test_two_positives_by_hand() -> None:
    # All three alike: every similarity is 1, no negatives.
    batch, outputs = labelled([1, 1, 1], (1, 0), (2, 0), (3, 0))
    assert ntxent(batch, outputs) == near(0.0)
    assert supcon(batch, outputs) == near(LOG2)
    assert circle(batch, outputs) == 0.0
    assert multi_similarity(batch, outputs) == near(math.log(1 + 2 / math.e) / 2)
    # Anchor 0 of positives at 1 and 0: mean 1/2 under log(e + 1); anchor 1 the same; anchor 2 of 0 and 0: log 2.
    batch, outputs = labelled([1, 1, 1], (1, 0), (2, 0), (0, 1))
    assert supcon(batch, outputs, temperature=1.0) == near((2 * (SP1 - 0.5) + LOG2) / 3)


def test_equal_similarities() -> None:
    # B = 3 pairs of equal rows: log(2B - 1).
    batch, outputs = labelled([0, 0, 1, 1, 2, 2], *[(1, 2)] * 6)
    assert ntxent(batch, outputs) == near(math.log(5))
    assert supcon(batch, outputs) == near(math.log(5))


def test_one_positive_each() -> None:
    batch, outputs = case(50)
    batch["labels"] = np.array([0, 1, 2, 0, 1, 2])
    assert supcon(batch, outputs, temperature=0.3) == near(ntxent(batch, outputs, temperature=0.3))
    # Positive pairs and negatives spelled out for infonce.
    batch["positive_pairs"] = np.array([(i, j) for i in range(6) for j in range(6) if abs(i - j) == 3])
    batch["negative_pairs"] = np.array([(i, j) for i in range(6) for j in range(6) if i != j and abs(i - j) != 3])
    assert ntxent(batch, outputs, temperature=0.3) == near(infonce(batch, outputs, temperature=0.3))


def test_nothing_to_compare() -> None:
    alone = labelled([0, 1], (1, 0), (0, 1))
    for oracle in (ntxent, supcon, circle):
        assert oracle(*alone) == 0.0
    assert multi_similarity(*alone) == near(math.log1p(math.exp(-25)) / 50)


def test_zero_vector_and_cold_temperature() -> None:
    # A zero row has similarity 0 to all.
    assert ntxent(*labelled([0, 0, 1], (0, 0), (1, 0), (0, 1)), temperature=1.0) == near(LOG2)
    assert ntxent(*labelled([0, 0, 1], (1, 0), (-1, 0), (1, 0)), temperature=1e-4) == near((2e4 + LOG2) / 2)
    # Positive exponent -g 2 (-2) for both anchors; negative g for anchor 0, and 0 (beyond the margin) for anchor 1.
    assert circle(*labelled([0, 0, 1], (1, 0), (-1, 0), (1, 0)), gamma=1e4, margin=0.0) == near((5e4 + 4e4) / 2)


@pytest.mark.parametrize("oracle", ALL)
def test_shared_rules(oracle: Oracle) -> None:
    batch, outputs = case(51)
    value = check_absence(oracle, batch, outputs)
    assert oracle({"labels": batch["labels"]}, outputs) == near(value)
    order = [3, 1, 5, 0, 4, 2]
    permuted = {name: field[order] for name, field in batch.items()}
    assert oracle(permuted, {"embeddings": outputs["embeddings"][order]}) == near(value)
    assert oracle({"labels": 7 - batch["labels"]}, {"embeddings": outputs["embeddings"] * 3}) == near(value)
    # Global counts are none of its business; an absent row is as if it were not there.
    assert oracle(batch | {"global_valid_seqs": np.array(99.0)}, outputs) == value
    batch["sample_mask"][2] = 0.0
    kept = [0, 1, 3, 4, 5]
    shorter = oracle({"labels": batch["labels"][kept]}, {"embeddings": outputs["embeddings"][kept]})
    outputs["embeddings"][2] = NAN
    assert oracle(batch, outputs) == near(shorter)
