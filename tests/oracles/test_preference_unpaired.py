"""The oracles of labelled single rows against hand-worked numbers, neutral points, reductions and rules."""

import math
from typing import Any

import numpy as np
import pytest

from .preference_absolute import apo_zero, bco_pair
from .preference_unpaired import apo_zero_unpaired, bco, bco_state, kl_reference_point, kto
from .shared_rules import soiled
from .test_oracles import LOG2, NAN, Data, Oracle, arr, gathered, near, random_tokens
from .test_oracles_more import SIG1, SIG2, SP1, SP2, at_reference, defaults, log_ratios, permuted


def labelled(*h: float, labels: Any, **fields: Any) -> tuple[Data, Data]:
    """Rows of one trained token each with these log-ratios and labels."""
    batch, outputs = log_ratios(*h)
    extra = {name: np.array(value, dtype=np.float64) for name, value in fields.items()}
    return {**batch, "labels": np.array(labels), **extra}, outputs


def random_labelled(seed: int) -> tuple[Data, Data]:
    batch, outputs = random_tokens(seed)
    batch["labels"] = np.array([1, 0, 0, 1])
    batch["desirable_probability"] = np.array([0.3, 0.8, 0.4, 0.9])
    batch["mismatched_log_ratios"] = np.array([1.5, -0.5, 2.0, 0.75])
    return batch, outputs


def test_bco_by_hand() -> None:
    # r = 3, 1: mean 2; r - d = 1 and -1.
    batch, outputs = labelled(6, 2, labels=[True, False])
    assert bco(batch, outputs, beta=0.5) == near(SP1 - 1)
    assert bco_state(batch, outputs, beta=0.5) == (near(2.0), 2.0)
    # Eval with the initial mean 0: softplus(-3), softplus(1).
    assert bco(batch, outputs, beta=0.5, training=False) == near((math.log1p(math.exp(-3)) + SP1) / 2)
    # Eval with mean 2, whatever the count; training with 2 rows of mean 0 before: d = 4/4 = 1.
    for count in (0.0, 7.0):
        assert bco(batch, outputs, beta=0.5, mean=2.0, count=count, training=False) == near(SP1 - 1)
    assert bco(batch, outputs, beta=0.5, count=2.0) == near((SP2 - 2 + LOG2) / 2)
    # The state of two batches is the state of their rows together.
    one = bco_state(*labelled(6, labels=[1]))
    assert bco_state(*labelled(2, -5, labels=[1, 0]), mean=one[0], count=one[1]) == (near(0.1), 3.0)
    assert bco_state(*labelled(6, 2, -5, labels=[1, 1, 0])) == (near(0.1), 3.0)


def test_bco_undesirable_weights_by_hand() -> None:
    # Odds 3, 1/3 (to 1/2), 99 (to 10), and a desirable row, which keeps 1.
    batch, outputs = labelled(1, 1, 1, 1, labels=[0, 0, 0, 1], desirable_probability=[0.75, 0.25, 0.99, 0.99])
    expected = (3 + 0.5 + 10) * SP1 + SP1 - 1
    assert bco(batch, outputs, beta=1.0, training=False) == pytest.approx(expected / 4, rel=1e-7)
    batch["desirable_probability"] = np.array([1.0, 0.0, 1.0, 0.0])
    assert bco(batch, outputs, beta=1.0, training=False) == near((20.5 * SP1 + SP1 - 1) / 4)


def test_bco_counts_active_rows_once() -> None:
    # Weights 2, 1/2, 0: d is the plain mean of r = 1, 3, and the loss (2 softplus(1) + 1/2 softplus(1)) / 2.5.
    batch, outputs = labelled(1, 3, NAN, labels=[1, 0, 1], sample_mask=[2, 0.5, 0])
    assert bco(batch, outputs, beta=1.0) == near(SP1)
    assert bco_state({**batch, "sample_mask": np.zeros(3)}, outputs, mean=0.25, count=4.0) == (near(0.25), 4.0)
    assert bco_state({**batch, "sample_mask": np.zeros(3)}, outputs) == (0.0, 0.0)


def test_bounded_losses_by_hand() -> None:
    batch, outputs = labelled(2, -2, labels=[1, 0])
    assert apo_zero_unpaired(batch, outputs, beta=0.5) == near(1 - SIG1)
    batch, outputs = labelled(2, 4, labels=[1, 0], kl_reference_point=1.0)
    weights = {"desirable_weight": 3.0, "undesirable_weight": 0.5}
    assert apo_zero_unpaired(batch, outputs, beta=0.5, **weights) == near((3 * (1 - SIG1) + 0.5 * SIG2) / 2)
    # h - z = 1 and 3.
    assert kto(batch, outputs, beta=1.0, **weights) == near((3 * (1 - SIG1) + 0.5 / (1 + math.exp(-3))) / 2)


def test_kl_reference_point_by_hand() -> None:
    batch, outputs = labelled(2, 4, 3, labels=[1, 0, 1], mismatched_log_ratios=[1, 4, -2])
    assert kl_reference_point(batch) == near(1.0)
    assert kl_reference_point({**batch, "sample_mask": np.array([1.0, 0.5, 0.5])}) == near(1.0)
    assert kl_reference_point({**batch, "sample_mask": np.array([1.0, 0.0, 3.0])}) == 0.0
    # A total weight below 1 divides by 1.
    assert kl_reference_point({**batch, "sample_mask": np.array([0.0, 0.5, 0.0])}) == near(2.0)
    # A given point comes first, and not below 0.
    assert kl_reference_point({**batch, "kl_reference_point": np.array(0.25)}) == 0.25
    assert kl_reference_point({**batch, "kl_reference_point": np.array(-3.0)}) == 0.0
    assert kto(batch, outputs, beta=1.0) == near((1 - SIG1 + 1 / (1 + math.exp(-3)) + 1 - SIG2) / 3)


def test_value_where_policy_is_reference() -> None:
    batch, outputs = at_reference(30)
    batch["labels"] = np.array([1, 0, 0, 0])
    assert bco(batch, outputs) == near(LOG2)
    assert apo_zero_unpaired(batch, outputs) == near(0.5)
    assert kto({**batch, "kl_reference_point": np.array(0.0)}, outputs) == near(0.5)
    assert kto({**batch, "kl_reference_point": np.array(0.0)}, outputs, desirable_weight=3.0) == near(0.75)


def test_reductions() -> None:
    batch, outputs = random_labelled(31)
    still = {**batch, "kl_reference_point": np.array(0.0)}
    assert kto(still, outputs) == near(apo_zero_unpaired(batch, outputs))
    # A pair is a desirable and an undesirable row: twice the row mean.
    pairs = {**batch, "labels": np.array([1, 0, 1, 0])}
    assert 2 * apo_zero_unpaired(pairs, outputs) == near(apo_zero(batch, outputs))
    del pairs["desirable_probability"]
    assert 2 * bco(pairs, outputs, training=False) == near(bco_pair(batch, outputs))
    # Even odds weigh 1.
    pairs["desirable_probability"] = np.full(4, 0.5)
    assert 2 * bco(pairs, outputs, training=False) == pytest.approx(bco_pair(batch, outputs), rel=1e-7)


def test_extremes() -> None:
    for oracle in (apo_zero_unpaired, kto):
        point = {"kl_reference_point": 0.0}
        assert oracle(*labelled(1e5, -1e5, labels=[1, 0], **point), beta=1.0) == 0.0
        assert oracle(*labelled(-1e5, 1e5, labels=[1, 0], **point), beta=1.0) == near(1.0)
    assert bco(*labelled(-1e5, 1e5, labels=[1, 0]), beta=1.0) == near(1e5)


@pytest.mark.parametrize("oracle", [bco, apo_zero_unpaired, kto])
def test_unpaired_losses_share_their_rules(oracle: Oracle) -> None:
    batch, outputs = random_labelled(32)
    value = oracle(batch, outputs)
    assert isinstance(value, float)
    lp: Data = {"next_token_logprobs": gathered(batch, outputs)}
    assert oracle(batch, lp) == near(value)
    assert oracle({k: v for k, v in batch.items() if k != "sample_mask"}, outputs) == near(value)
    for rows in ([2, 0, 3, 1], [0, 1, 2, 3, 0, 1, 2, 3]):
        assert oracle(permuted(batch, rows), permuted(lp, rows)) == near(value)
    assert oracle({**batch, "labels": np.array([-2.5, 0.0, 0.0, 7.0])}, lp) == near(value)
    assert oracle({**batch, "global_valid_seqs": np.array(16.0)}, lp) == near(value / 4)
    assert oracle(*soiled(batch, lp, absent_rows=3)) == near(value)
    assert oracle({**batch, "sample_mask": np.zeros(4)}, lp) == 0.0


def test_default_settings() -> None:
    assert defaults(bco) == {"beta": 0.1, "mean": 0.0, "count": 0.0, "training": True}
    for oracle in (apo_zero_unpaired, kto):
        assert defaults(oracle) == {"beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0}


def test_lengths_by_hand() -> None:
    # Sums of log-ratios, not means: 1 + 1 over two trained tokens, and 4 in an untrained one.
    batch: Data = {
        "token_mask": arr([1, 1, 1, 0]),
        "reference_policy_logprobs": arr([NAN, -2, -3, -9]),
        "labels": np.array([0]),
    }
    assert apo_zero_unpaired(batch, {"next_token_logprobs": arr([-1, -2, -5])}, beta=1.0) == near(SIG2)
