"""Contrastive oracles of partnered rows against numbers worked out by hand."""

import math
from typing import Any

import numpy as np
import pytest

from .contrastive_pairs import clip_symmetric, margin_contrastive, n_pairs, siglip, triplet_margin
from .shared_rules import check_absence
from .test_oracles import LOG2, NAN, Data, Oracle, arr, near
from .test_oracles_more import SP1, SP2

PARTNERED: list[Oracle] = [clip_symmetric, siglip, n_pairs, triplet_margin]
NAMES = ("image", "text", "anchor", "positive", "negative")


def embedded(**rows: Any) -> Data:
    return {f"{name}_embeddings": np.array(values, dtype=np.float64) for name, values in rows.items()}


def case(seed: int) -> tuple[Data, Data]:
    rng = np.random.default_rng(seed)
    return {"sample_mask": np.ones(4)}, embedded(**{name: rng.normal(size=(4, 3)) for name in NAMES})


def test_clip_by_hand() -> None:
    # Similarities [[1, 0], [1, 0]]: rows log(1 + e^-1) and log(1 + e); each column log 2.
    outputs = embedded(image=[(2, 0), (3, 0)], text=[(5, 0), (0, 1)])
    assert clip_symmetric({}, outputs, temperature=1.0) == near(0.5 * (SP1 - 0.5) + 0.5 * LOG2)
    swapped = embedded(image=[(5, 0), (0, 1)], text=[(2, 0), (3, 0)])
    assert clip_symmetric({}, swapped, temperature=1.0) == near(0.5 * (SP1 - 0.5) + 0.5 * LOG2)
    # B equal rows: log B; right angles: log(1 + e^{-1/tau}).
    assert clip_symmetric({}, embedded(image=[(1, 2)] * 5, text=[(2, 1)] * 5)) == near(math.log(5))
    square = embedded(image=[(1, 0), (0, 1)], text=[(1, 0), (0, 1)])
    assert clip_symmetric({}, square, temperature=0.5) == near(SP2 - 2)
    against = embedded(image=[(1, 0), (0, 1)], text=[(0, 1), (1, 0)])
    assert clip_symmetric({}, against, temperature=1e-4) == near(1e4)


def test_siglip_by_hand() -> None:
    # Scores [[1, -1], [-1, 1]] at scale 2, bias -1: four terms of log(1 + e^-1) over two rows.
    square = embedded(image=[(7, 0), (0, 1)], text=[(1, 0), (0, 9)])
    assert siglip({}, square, scale=2.0, bias=-1.0) == near(2 * (SP1 - 1))
    # All scores 0: log 2 for each of B^2 pairs over B; the defaults' scores are 0 and -10.
    assert siglip({}, square, scale=0.0, bias=0.0) == near(2 * LOG2)
    assert siglip({}, square) == near(LOG2 + math.log1p(math.exp(-10)))
    assert siglip({}, square, scale=0.0, bias=1e4) == near(1e4)


def test_n_pairs_by_hand() -> None:
    # Dot products [[2, 0], [1, 2]].
    outputs = embedded(anchor=[(2, 0), (1, 2)], positive=[(1, 0), (0, 1)])
    assert n_pairs({}, outputs) == near((SP2 - 2 + SP1 - 1) / 2)
    assert n_pairs({}, embedded(anchor=[(1, 1)] * 3, positive=[(1, 1)] * 3)) == near(math.log(3))


def triplets() -> Data:
    # Distances 5 and 4, then 1 and 3: gaps 1 and -2.
    return embedded(anchor=[(0, 0), (1, 1)], positive=[(3, 4), (1, 2)], negative=[(4, 0), (4, 1)])


def test_triplets_by_hand() -> None:
    outputs = triplets()
    assert triplet_margin({}, outputs) == near(1.0)
    assert triplet_margin({}, outputs, average="nonzero") == near(2.0)
    assert triplet_margin({}, outputs, margin=3.0) == near(2.5)
    assert triplet_margin({}, outputs, margin=0.0) == near(0.5)
    assert triplet_margin({}, outputs, soft=True) == near((SP1 + SP2 - 2) / 2)
    weighed: Data = {"sample_mask": np.array([1.0, 0.5])}
    assert triplet_margin(weighed, outputs, margin=3.0) == near((4 + 0.5) / 1.5)
    assert triplet_margin(weighed, outputs, average="nonzero") == near(2.0)
    # Nothing to pull or push: the margin, or log 2.
    level = embedded(anchor=[(0, 0)], positive=[(0, 1)], negative=[(1, 0)])
    assert triplet_margin({}, level, margin=0.3) == near(0.3)
    assert triplet_margin({}, level, soft=True) == near(LOG2)
    with pytest.raises(ValueError, match="unknown average"):
        triplet_margin({}, outputs, average="some")


def listed() -> tuple[Data, Data]:
    # Rows at 0, 1/2, 2 on a line. Positive distances 1/2 and 2, negative ones 1/2 and 3/2.
    batch: Data = {
        "positive_pairs": np.array([[0, 1], [2, 0]]),
        "negative_pairs": np.array([[0, 1], [1, 2]]),
    }
    return batch, {"embeddings": arr([0, 0], [0, 0.5], [0, 2])}


def test_listed_pairs_by_hand() -> None:
    batch, outputs = listed()
    assert margin_contrastive(batch, outputs) == near(1.25 + 0.25)
    assert margin_contrastive(batch, outputs, positive_margin=1.0, negative_margin=2.0) == near(0.5 + 1.0)
    assert margin_contrastive(batch, outputs, squared=True) == near((0.125 + 2) / 2 + 0.125 / 2)
    # Row 2 weighs 1/2: (1/2 + 1/2 2) / 1.5, and (1/2 + 0) / 1.5.
    batch["sample_mask"] = np.array([1.0, 1.0, 0.5])
    assert margin_contrastive(batch, outputs) == near((1.5 + 0.5) / 1.5)
    # Row 2 absent: one pair of each sort.
    batch["sample_mask"][2] = 0.0
    outputs["embeddings"][2] = NAN
    assert margin_contrastive(batch, outputs) == near(1.0)
    batch["sample_mask"][:] = 0.0
    assert margin_contrastive(batch, outputs) == 0.0


@pytest.mark.parametrize("oracle", PARTNERED)
def test_shared_rules(oracle: Oracle) -> None:
    batch, outputs = case(60)
    value = check_absence(oracle, batch, outputs)
    assert oracle({}, outputs) == near(value)
    order = [2, 0, 3, 1]
    assert oracle(batch, {name: field[order] for name, field in outputs.items()}) == near(value)
    assert oracle({"global_valid_seqs": np.array(99.0)}, outputs) == near(value)
    batch["sample_mask"][1] = 0.0
    shorter = oracle({}, {name: field[[0, 2, 3]] for name, field in outputs.items()})
    for field in outputs.values():
        field[1] = NAN
    assert oracle(batch, outputs) == near(shorter)


@pytest.mark.parametrize("oracle", [clip_symmetric, siglip])
def test_lengths_do_not_matter(oracle: Oracle) -> None:
    batch, outputs = case(61)
    longer = {name: field * np.array([[1.0], [2.0], [3.0], [4.0]]) for name, field in outputs.items()}
    assert oracle(batch, longer) == near(oracle(batch, outputs))
