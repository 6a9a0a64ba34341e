"""The oracles of the behaviour-policy corrections against hand-worked numbers, reductions and rules."""

import math
from typing import Any

import numpy as np
import pytest

from .policy_gradient import ppo_clip
from .policy_gradient_corrections import (
    corrected,
    divergence_mask,
    icepop,
    off_policy_mask,
    seq_mask,
    seq_mask_tis,
    seq_truncate,
    tis,
)
from .shared_rules import soiled
from .test_oracles import LOG2, NAN, Data, Oracle, arr, near
from .test_oracles_more import defaults, permuted
from .test_oracles_more_policy import random_case

ALL: list[Oracle] = [tis, icepop, seq_truncate, seq_mask, seq_mask_tis, off_policy_mask, divergence_mask]


def behind(*weights: list[float], drift: float = 0.0) -> tuple[Data, Data]:
    """Trained tokens with these W0 and lp - lp_old = drift; a token's term without W is 1, 2, 4, .. at drift 0."""
    w0 = arr(*weights)
    hidden = np.full((len(w0), 1), NAN)
    batch: Data = {
        "token_mask": np.ones((len(w0), w0.shape[1] + 1)),
        "prev_logprobs": np.concatenate([hidden, np.full_like(w0, -3.0)], axis=1),
        "generation_logprobs": np.concatenate([hidden, -3.0 - np.log(w0)], axis=1),
        "advantages": np.concatenate([hidden, -(2.0 ** np.arange(w0.size).reshape(w0.shape))], axis=1),
    }
    return batch, {"next_token_logprobs": np.full_like(w0, drift - 3.0)}


def test_token_weights_by_hand() -> None:
    batch, outputs = behind([0.25, 1.0], [1.5, 4.0])
    assert tis(batch, outputs) == near((0.25 + 2 + 6 + 16) / 4)
    assert tis(batch, outputs, is_min=0.5, is_max=3.0) == near((0.5 + 2 + 6 + 24) / 4)
    assert icepop(batch, outputs) == near((0 + 2 + 6 + 0) / 4)
    assert icepop(batch, outputs, is_min=0.1, is_max=1.25) == near((0.25 + 2) / 4)
    # A weight on the bound is inside.
    assert icepop(*behind([0.75, 1.0]), is_max=1.0) == near((0.75 + 2) / 2)
    assert icepop(*behind([0.75, 1.0]), is_min=1.0) == near(2 / 2)


def test_weights_of_mean_one_by_hand() -> None:
    batch, outputs = behind([0.25, 1.0], [1.5, 4.0])
    # tis: weights 1/4, 1, 3/2, 2 of mean 19/16; icepop: 0, 1, 3/2, 0 of mean 5/8.
    assert tis(batch, outputs, batch_normalize=True) == near(24.25 / 4 * 16 / 19)
    assert icepop(batch, outputs, batch_normalize=True) == near(8 / 4 * 8 / 5)
    # seq_truncate: rows 1/4 and 3, whatever their lengths; a row that counts three times pulls the mean to itself.
    batch["token_mask"][0, 2] = 0.0
    assert seq_truncate(batch, outputs, batch_normalize=True) == near((0.25 + 3 * 12) / 3 / 1.625)
    batch["sample_mask"] = arr(3.0, 1.0)
    assert seq_truncate(batch, outputs, batch_normalize=True) == near((3 * 0.25 + 3 * 12) / 5 / (3.75 / 4))
    # Everything left out: there is nothing to divide by.
    assert seq_mask(batch, outputs, is_max=0.1, batch_normalize=True) == 0.0


def test_sequence_weights_by_hand() -> None:
    # Products 1/2, 6, 3/4; geometric means sqrt(1/2), sqrt 6, sqrt(3/4).
    batch, outputs = behind([0.5, 1.0], [1.5, 4.0], [3.0, 0.25])
    assert seq_truncate(batch, outputs) == near((0.5 * 3 + 3 * 12 + 0.75 * 48) / 6)
    assert seq_truncate(batch, outputs, is_max=0.6) == near((0.5 * 3 + 0.6 * 60) / 6)
    assert seq_mask(batch, outputs) == near((0.5 * 3 + 0.75 * 48) / 6)
    assert seq_mask(batch, outputs, is_min=0.6, is_max=6.5) == near((6 * 12 + 0.75 * 48) / 6)
    # sqrt 6 is outside; the kept rows have their tokens' weights, 3 among them.
    assert seq_mask_tis(batch, outputs) == near((0.5 + 2 + 3 * 16 + 0.25 * 32) / 6)
    assert seq_mask_tis(batch, outputs, is_min=0.8, is_max=2.5) == near((1.5 * 4 + 4 * 8 + 3 * 16 + 0.25 * 32) / 6)
    # An untrained token is in no sum: row 1 is W0 = 1.5 alone.
    batch["token_mask"][1, 2] = 0.0
    batch["generation_logprobs"][1, 2] = NAN
    assert seq_mask(batch, outputs) == near((0.5 * 3 + 1.5 * 4 + 0.75 * 48) / 5)
    assert seq_mask_tis(batch, outputs) == near((0.5 + 2 + 1.5 * 4 + 3 * 16 + 0.25 * 32) / 5)
    # Row weights enter the mean alone.
    batch["sample_mask"] = arr(2, 1, 0)
    assert seq_mask(batch, outputs) == near((2 * 0.5 * 3 + 1.5 * 4) / 5)


def test_clip_by_hand() -> None:
    # r = 1/2 at A = -1, -2: clipped at 0.8; at 0.4 the bound is 0.6.
    batch, outputs = behind([2.0, 1.5], drift=-LOG2)
    for oracle in (tis, icepop, seq_mask_tis):
        assert oracle(batch, outputs) == near((2 * 0.8 + 1.5 * 1.6) / 2)
        assert oracle(batch, outputs, ratio_clip_min=0.4) == near((2 * 0.6 + 1.5 * 1.2) / 2)
    assert seq_truncate(batch, outputs, ratio_clip_min=0.4) == near(3 * (0.6 + 1.2) / 2)
    batch["advantages"] *= -1.0
    assert tis(batch, {"next_token_logprobs": np.full((1, 2), LOG2 - 3.0)}, ratio_clip_max=0.5) == near(
        -(2 * 1.5 + 1.5 * 3) / 2
    )


def test_off_policy_mask_by_hand() -> None:
    # lp_gen - lp: log 2 and 0 in row 0, mean 0.347; -log 2 in row 1. lp = lp_old.
    batch, outputs = behind([0.5, 1.0], [2.0, 2.0])
    assert off_policy_mask(batch, outputs) == near(12 / 4)
    assert off_policy_mask(batch, outputs, threshold=0.34) == near(12 / 4)
    assert off_policy_mask(batch, outputs, threshold=0.35) == near(15 / 4)
    # The policy as it is now counts: 0.2 further away.
    away = {"next_token_logprobs": outputs["next_token_logprobs"] - 0.2}
    assert off_policy_mask(batch, away, threshold=0.54) == near(12 * math.exp(-0.2) / 4)
    assert off_policy_mask(batch, away, threshold=0.55) == near(15 * math.exp(-0.2) / 4)
    # Tokens of A >= 0 stay.
    batch["advantages"] = arr([NAN, 1, -2], [NAN, -4, 0])
    assert off_policy_mask(batch, outputs) == near((-1 + 4) / 4)
    # Exactly at the threshold stays, in floats that are exact.
    exact = {**batch, "generation_logprobs": arr([NAN, -2, -3], [NAN, -3, -3])}
    assert off_policy_mask(exact, outputs, threshold=0.5) == near((-1 + 2 + 4) / 4)


def test_divergence_mask_by_hand() -> None:
    # g = log 4, 0, log 0.6, log 1.5; k2: 0.961, 0, 0.130, 0.082; k3: 1.614, 0, 0.111, 0.095.
    batch, outputs = behind([4.0, 1.0], [0.6, 1.5])

    def kept(tokens: float, **config: Any) -> None:
        assert divergence_mask(batch, outputs, **config) == near(tokens / 4)

    kept(14)
    kept(10, upper=1.6)
    kept(14, upper=1.6, lower=0.25)
    kept(11, upper=5.0, lower=0.75)
    # Products 4 and 0.9; geometric means 2 and 0.949.
    kept(12, level="seq_sum")
    kept(15, level="seq_sum", upper=5.0)
    kept(3, level="seq_sum", upper=5.0, lower=0.95)
    kept(12, level="seq_mean", upper=1.9)
    kept(3, level="seq_mean", upper=2.1, lower=0.95)
    kept(15, level="seq_mean", upper=2.1, lower=0.94)
    # k2 of the rows: means 0.480 and 0.106, sums 0.961 and 0.213.
    kept(14, estimator="k2", upper=0.9)
    kept(10, estimator="k2", upper=0.1)
    kept(12, estimator="k2", level="seq_mean", upper=0.4)
    kept(15, estimator="k2", level="seq_mean", upper=0.5)
    kept(12, estimator="k2", level="seq_sum", upper=0.22)
    kept(0, estimator="k2", level="seq_sum", upper=0.2)
    kept(12, estimator="k2", level="seq_max", upper=0.14)
    kept(0, estimator="k2", level="seq_max", upper=0.12)
    # k3 of the rows: means 0.807 and 0.103, sums 1.614 and 0.205.
    kept(14, estimator="k3", upper=1.6)
    kept(15, estimator="k3", upper=1.62)
    kept(15, estimator="k3", level="seq_mean", upper=0.81)
    kept(12, estimator="k3", level="seq_mean", upper=0.80)
    kept(12, estimator="k3", level="seq_max", upper=0.12)
    kept(0, estimator="k3", level="seq_sum", upper=0.2)
    kept(12, estimator="k3", level="seq_sum", upper=0.21)
    # The lower bound is of k1 alone.
    kept(15, estimator="k3", upper=9.0, lower=3.0)
    for config, match in (
        ({"level": "seq_max"}, "seq_max"),
        ({"level": "row"}, "unknown level"),
        ({"estimator": "abs"}, "unknown estimator"),
    ):
        with pytest.raises(ValueError, match=match):
            kept(0, **config)


def test_extremes() -> None:
    # W0 of e^1000 and e^-1000.
    batch, outputs = behind([1.0], [1.0])
    batch["generation_logprobs"] = arr([NAN, -1003], [NAN, 997])
    assert tis(batch, outputs) == near((2 + 0) / 2)
    assert tis(batch, outputs, is_min=0.5) == near((2 + 1) / 2)
    assert icepop(batch, outputs) == 0.0
    assert seq_truncate(batch, outputs) == near((3 + 0) / 2)
    assert seq_mask(batch, outputs) == 0.0
    assert seq_mask_tis(batch, outputs) == 0.0
    for estimator in ("k1", "k2", "k3"):
        assert divergence_mask(batch, outputs, estimator=estimator) == 0.0
    assert divergence_mask(batch, outputs, estimator="k3", upper=1000.0) == near(1.0)
    # A dropped token of infinite ratio.
    outputs["next_token_logprobs"][:] = 1e4
    assert icepop(batch, outputs) == 0.0


@pytest.mark.parametrize("oracle", ALL)
def test_no_change_where_the_old_policy_generated(oracle: Oracle) -> None:
    batch, outputs = random_case(90)
    batch["generation_logprobs"] = batch["prev_logprobs"]
    config: dict[str, Any] = {"ratio_clip_min": 0.3, "ratio_clip_max": 0.1}
    if oracle is off_policy_mask:
        batch["generation_logprobs"] = np.full((4, 6), -99.0)
    assert oracle(batch, outputs, aggregation="seq_mean_token_mean") == near(
        ppo_clip(batch, outputs, aggregation="seq_mean_token_mean")
    )
    assert oracle(batch, outputs, aggregation="fixed", max_length=7.0) == near(
        ppo_clip(batch, outputs, aggregation="fixed", max_length=7.0)
    )
    assert oracle(batch, outputs, **config) == near(ppo_clip(batch, outputs, **config))


@pytest.mark.parametrize("oracle", ALL)
def test_corrections_share_their_rules(oracle: Oracle) -> None:
    batch, outputs = random_case(91)
    batch["generation_logprobs"] = batch["prev_logprobs"] + np.random.default_rng(91).normal(scale=0.4, size=(4, 6))
    value = oracle(batch, outputs)
    assert isinstance(value, float)
    assert oracle(batch, {"logits": outputs["logits"]}) == near(value)
    assert oracle({k: v for k, v in batch.items() if k != "sample_mask"}, outputs) == near(value)
    for rows in ([2, 0, 3, 1], [0, 1, 2, 3, 0, 1, 2, 3]):
        assert oracle(permuted(batch, rows), permuted(outputs, rows)) == near(value)
    counts: Data = {"global_valid_toks": np.array(batch["token_mask"][:, 1:].sum())}
    halves = [oracle(permuted(batch, rows) | counts, permuted(outputs, rows)) for rows in (slice(0, 1), slice(1, 4))]
    assert sum(halves) == near(value)
    for scale in (0.0, 2.5):
        assert oracle({**batch, "advantages": scale * batch["advantages"]}, outputs) == near(scale * value)
    assert oracle(*soiled(batch, {"next_token_logprobs": outputs["next_token_logprobs"]}, absent_rows=2)) == near(value)
    assert oracle({**batch, "sample_mask": np.zeros(4)}, outputs) == 0.0


def test_default_settings() -> None:
    clip = {"ratio_clip_min": 0.2, "ratio_clip_max": 0.2, "ratio_clip_c": None, "log_ratio_clamp": None}
    assert defaults(corrected) == {**clip, "ratio_level": "token", "aggregation": "token_mean", "max_length": None}
    own: list[tuple[Oracle, dict[str, Any]]] = [
        (tis, {"is_min": 0.0, "is_max": 2.0, "overflow": "saturate"}),
        (icepop, {"is_min": 0.5, "is_max": 2.0}),
        (seq_mask_tis, {"is_min": 0.5, "is_max": 2.0}),
        (seq_truncate, {"is_max": 3.0}),
        (seq_mask, {"is_min": 0.0, "is_max": 3.0}),
        (off_policy_mask, {"threshold": 0.1}),
        (divergence_mask, {"estimator": "k1", "level": "token", "upper": 2.0, "lower": None}),
    ]
    for oracle, expected in own:
        assert defaults(oracle) == expected
