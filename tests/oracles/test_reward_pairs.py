"""Pairwise and groupwise reward-model oracles against numbers worked out by hand, and their reductions."""

import math
from typing import Any

import numpy as np
import pytest

from .reward import bradley_terry
from .reward_pairs import all_pairs_k, bt_centered, bt_margin, bt_soft_label, logexp_pairwise, plackett_luce_rm
from .shared_rules import check_absence
from .test_oracles import LOG2, Data, Oracle, near
from .test_oracles_more import SP1, SP2

PAIRWISE: list[Oracle] = [bt_margin, bt_centered, logexp_pairwise, bt_soft_label]
GROUPWISE: list[Oracle] = [all_pairs_k, plackett_luce_rm]


def rows(*predicted: float, **fields: Any) -> tuple[Data, Data]:
    return {name: np.array(v, dtype=np.float64) for name, v in fields.items()}, {"rewards": np.array(predicted)}


def case(seed: int, pairs: int = 3) -> tuple[Data, Data]:
    rng = np.random.default_rng(seed)
    n = 2 * pairs
    batch: Data = {
        "margin": rng.random(n),
        "preference_probability": rng.random(n),
        "rewards": rng.normal(size=n),
        "sample_mask": np.array([1.0, 0.5] + [1.0] * (n - 2)),
    }
    return batch, {"rewards": 3 * rng.normal(size=n)}


BY_HAND: list[tuple[Oracle, dict[str, Any], tuple[float, ...], dict[str, Any], float]] = [
    # rho = 3 and 1: a gap of 2.
    (bt_margin, {"margin": [1, 9]}, (3, 1), {}, SP1 - 1),
    (bt_margin, {"margin": [4, 0]}, (3, 1), {}, SP2),
    (bt_centered, {}, (1.5, -0.5), {}, SP2 - 2 + 0.01),
    (bt_centered, {}, (3, 1), {"center_coefficient": 0.5}, SP2 - 2 + 8.0),
    (logexp_pairwise, {}, (1, 3), {}, SP2),
    (bt_soft_label, {"preference_probability": [0.25, 0.9]}, (3, 1), {}, SP2 - 0.25 * 2),
    # True order 2, 0, 1 of the predictions 1, 0, 2: gaps 1, 2, 1.
    (all_pairs_k, {"rewards": [5, 1, 7]}, (1, 0, 2), {"group_size": 3}, (2 * (SP1 - 1) + SP2 - 2) / 3),
    # Equal true rewards of the first two: gaps 1 and 2 against the third, still over three.
    (all_pairs_k, {"rewards": [5, 5, 7]}, (1, 0, 2), {"group_size": 3}, (SP1 - 1 + SP2 - 2) / 3),
    # log(1 + e^-1 + e^-2) + log(1 + e^-1).
    (
        plackett_luce_rm,
        {"rewards": [5, 1, 7]},
        (1, 0, 2),
        {"group_size": 3},
        math.log(1 + math.exp(-1) + math.exp(-2)) + SP1 - 1,
    ),
    # Equal true rewards: the earlier row comes first; predictions 0 then 1.
    (plackett_luce_rm, {"rewards": [5, 5]}, (0, 1), {}, SP1),
]


@pytest.mark.parametrize(("oracle", "fields", "predicted", "settings", "expected"), BY_HAND)
def test_one_group_by_hand(
    oracle: Oracle, fields: dict[str, Any], predicted: tuple[float, ...], settings: dict[str, Any], expected: float
) -> None:
    assert oracle(*rows(*predicted, **fields), **settings) == near(expected)


def test_neutral_points() -> None:
    zero = rows(0, 0, 0, 0, margin=[2] * 4, preference_probability=[0.3] * 4, rewards=[1, 2, 4, 3])
    assert bt_margin(*zero) == near(SP2)
    assert bt_centered(*zero) == near(LOG2)
    assert bt_soft_label(*zero) == near(LOG2)
    assert all_pairs_k(*zero, group_size=4) == near(LOG2)
    assert plackett_luce_rm(*zero, group_size=4) == near(math.log(24))
    # The soft label's minimum is its entropy, at the log odds.
    at = rows(math.log(9), 0, preference_probability=[0.9, 0.9])
    assert bt_soft_label(*at) == near(-(0.9 * math.log(0.9) + 0.1 * math.log(0.1)))


def test_reductions_to_bradley_terry() -> None:
    batch, outputs = case(30)
    value = bradley_terry(batch, outputs)
    assert logexp_pairwise(batch, outputs) == near(value)
    assert bt_centered(batch, outputs, center_coefficient=0.0) == near(value)
    assert bt_margin({**batch, "margin": np.zeros(6)}, outputs) == near(value)
    assert bt_soft_label({**batch, "preference_probability": np.ones(6)}, outputs) == near(value)
    ordered = {**batch, "rewards": np.array([1.0, 0.0] * 3)}
    for oracle in GROUPWISE:
        assert oracle(ordered, outputs) == near(value)
        # Turned round: -log sigma(-d) = -log sigma(d) + d.
        swapped: Data = {"rewards": outputs["rewards"].reshape(3, 2)[:, ::-1].reshape(6)}
        assert oracle({**ordered, "rewards": np.array([0.0, 1.0] * 3)}, swapped) == near(value)


def test_a_common_shift() -> None:
    batch, outputs = case(31)
    shifted: Data = {"rewards": outputs["rewards"] + 7.0}
    for oracle in (bt_margin, logexp_pairwise, bt_soft_label, *GROUPWISE):
        assert oracle(batch, shifted) == near(oracle(batch, outputs))
    assert abs(bt_centered(batch, shifted) - bt_centered(batch, outputs)) > 0.1


def test_extremes() -> None:
    fields: dict[str, Any] = {"margin": [0, 0], "preference_probability": [1, 1], "rewards": [1, 0]}
    for oracle in (bt_margin, logexp_pairwise, bt_soft_label, *GROUPWISE):
        assert oracle(*rows(9e3, -1e3, **fields)) == near(0.0)
        assert oracle(*rows(-9e3, 1e3, **fields)) == near(1e4)


def test_weights_and_counts_by_hand() -> None:
    # Pairs of gap 1 and 2 weighed 1/2 and 1.
    fields: dict[str, Any] = {"margin": [0] * 4, "preference_probability": [1] * 4, "rewards": [1, 0, 1, 0]}
    batch, outputs = rows(1, 0, 2, 0, sample_mask=[1, 0.5, 1, 1], **fields)
    weighed = 0.5 * (SP1 - 1) + SP2 - 2
    for oracle in (bt_margin, logexp_pairwise, bt_soft_label, *GROUPWISE):
        assert oracle(batch, outputs) == near(weighed / 1.5)
        assert oracle({**batch, "global_valid_seqs": np.array(8.0)}, outputs) == near(weighed / 4)
        assert oracle({**batch, "global_valid_seqs": np.array(1.0)}, outputs) == near(weighed)
    grouped = {**batch, "global_valid_seqs": np.array(8.0)}
    four = all_pairs_k({**batch, "sample_mask": np.ones(4)}, outputs, group_size=4)
    assert all_pairs_k(grouped, outputs, group_size=4) == near(0.5 * four / 2)


@pytest.mark.parametrize("oracle", [*PAIRWISE, *GROUPWISE])
def test_shared_rules(oracle: Oracle) -> None:
    batch, outputs = case(32)
    value = check_absence(oracle, batch, outputs, rows=2)
    order = [4, 5, 0, 1, 2, 3]
    assert oracle({k: v[order] for k, v in batch.items()}, {"rewards": outputs["rewards"][order]}) == near(value)
    batch["margin"][1::2] = math.nan
    batch["preference_probability"][1::2] = math.nan
    assert oracle(batch, outputs) == near(value)
    with pytest.raises(ValueError, match="rows"):
        oracle({}, {"rewards": np.zeros(3)})


@pytest.mark.parametrize("oracle", GROUPWISE)
def test_the_order_within_a_group(oracle: Oracle) -> None:
    batch, outputs = case(33)
    batch["sample_mask"][:] = 1.0
    value = oracle(batch, outputs, group_size=3)
    check_absence(oracle, batch, outputs, rows=3, group_size=3)
    order = [2, 0, 1, 4, 5, 3]
    permuted = {k: v[order] for k, v in batch.items()}
    assert oracle(permuted, {"rewards": outputs["rewards"][order]}, group_size=3) == near(value)
    # Only the order of the true rewards matters.
    assert oracle({**batch, "rewards": np.exp(batch["rewards"])}, outputs, group_size=3) == near(value)
