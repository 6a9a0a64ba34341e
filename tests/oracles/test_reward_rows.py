"""Row-wise and step-wise reward-model oracles against numbers worked out by hand."""

import math

import numpy as np
import pytest

from .reward_rows import orm_bce, prm_token_ce, reward_regression
from .shared_rules import check_absence
from .supervised import nll
from .test_oracles import LOG2, NAN, Data, arr, near
from .test_oracles_more import SP1, SP2

HALF_QUARTERS = [LOG2, 0.0, 0.0]  # p = 1/2, 1/4, 1/4


def test_regression_by_hand() -> None:
    # Errors 2 and -3, of weights 1 and 1/2.
    batch: Data = {"scores": np.array([1.0, 4.0])}
    outputs: Data = {"rewards": np.array([3.0, 1.0])}
    assert reward_regression(batch, outputs) == near(6.5)
    assert reward_regression({**batch, "sample_mask": np.array([1.0, 0.5])}, outputs) == near(8.5 / 1.5)
    assert reward_regression({**batch, "global_valid_seqs": np.array(4.0)}, outputs) == near(3.25)
    assert reward_regression({"scores": outputs["rewards"]}, outputs) == 0.0
    shifted = reward_regression({"scores": batch["scores"] + 7}, {"rewards": outputs["rewards"] + 7})
    assert shifted == near(6.5)


def test_outcomes_by_hand() -> None:
    # -log sigma(1), -log sigma(-2), and half of each at the label 1/2.
    outputs: Data = {"rewards": np.array([1.0, 2.0])}
    assert orm_bce({"labels": np.array([1, 0])}, outputs) == near((SP1 - 1 + SP2) / 2)
    assert orm_bce({"labels": np.array([True, False])}, outputs) == near((SP1 - 1 + SP2) / 2)
    assert orm_bce({"labels": np.array([0.5, 0.5])}, outputs) == near((SP1 - 0.5 + SP2 - 1) / 2)
    assert orm_bce({"labels": np.array([1, 0])}, {"rewards": np.zeros(2)}) == near(LOG2)
    assert orm_bce({"labels": np.array([1, 0])}, {"rewards": np.array([1e4, -1e4])}) == near(0.0)
    assert orm_bce({"labels": np.array([0, 1])}, {"rewards": np.array([1e4, -1e4])}) == near(1e4)


def steps() -> tuple[Data, Data]:
    # Labelled and trained: token 1 of row 0 (label 1) and token 2 of row 1 (label 0).
    batch: Data = {
        "token_mask": arr([1, 1, 0], [1, 1, 1]),
        "step_labels": np.array([[0, 1, 2], [0, -100, 0]]),
    }
    logits = np.full((2, 3, 3), NAN)
    logits[0, 1] = logits[1, 2] = HALF_QUARTERS
    return batch, {"logits": logits}


def test_steps_by_hand() -> None:
    batch, outputs = steps()
    assert prm_token_ce(batch, outputs) == near(1.5 * LOG2)
    assert prm_token_ce({**batch, "sample_mask": np.array([1.0, 0.5])}, outputs) == near(2.5 * LOG2 / 1.5)
    assert prm_token_ce({**batch, "global_valid_toks": np.array(6.0)}, outputs) == near(0.5 * LOG2)
    batch["step_labels"][:] = -100
    assert prm_token_ce(batch, outputs) == 0.0


def test_steps_are_nll_of_shifted_fields() -> None:
    rng = np.random.default_rng(40)
    batch: Data = {
        "token_mask": (rng.random((3, 6)) < 0.7).astype(np.float64),
        "sample_mask": np.array([1.0, 0.5, 2.0]),
        "step_labels": rng.integers(0, 4, (3, 6)),
    }
    outputs: Data = {"logits": rng.normal(size=(3, 6, 4))}
    value = check_absence(prm_token_ce, batch, outputs)
    shifted: Data = {"logits": np.concatenate([outputs["logits"][:, 1:], outputs["logits"][:, :1]], axis=1)}
    assert value == near(nll({**batch, "input_ids": batch["step_labels"]}, shifted))
    assert prm_token_ce(batch, {"logits": np.zeros((3, 6, 4))}) == near(math.log(4))
    assert prm_token_ce(batch, {"logits": outputs["logits"] + 1e3}) == pytest.approx(value, rel=1e-12)
    outputs["logits"][batch["token_mask"] == 0.0] = NAN
    outputs["logits"][:, 0] = NAN
    assert prm_token_ce(batch, outputs) == near(value)


def test_shared_rules() -> None:
    rng = np.random.default_rng(41)
    batch: Data = {
        "scores": rng.normal(size=4),
        "labels": rng.integers(0, 2, 4),
        "sample_mask": np.array([1.0, 0.5, 2.0, 1.0]),
    }
    outputs: Data = {"rewards": rng.normal(size=4)}
    for oracle in (reward_regression, orm_bce):
        check_absence(oracle, batch, outputs)
        halves = [
            oracle(
                {name: value[rows] for name, value in batch.items()} | {"global_valid_seqs": np.array(4.5)},
                {"rewards": outputs["rewards"][rows]},
            )
            for rows in (slice(None, 2), slice(2, None))
        ]
        assert sum(halves) == near(oracle(batch, outputs))
