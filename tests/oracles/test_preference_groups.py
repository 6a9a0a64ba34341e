"""The oracles of groups and triples against hand-worked numbers, neutral points, reductions and rules."""

import math
from typing import Any

import numpy as np
import pytest

from .preference import dpo
from .preference_absolute import nca_pair
from .preference_groups import (
    infonca,
    lipo,
    plackett_luce_dpo,
    rrhf,
    slic_hf_with_target,
    tpo,
    tpo_l,
)
from .preference_pairs import hinge_dpo, ipo
from .preference_without_reference import cpo, simpo, slic_hf
from .shared_rules import soiled
from .test_oracles import LOG2, NAN, Data, Oracle, arr, gathered, near, random_tokens
from .test_oracles_more import SIG1, SP1, SP2, at_reference, defaults, log_ratios, permuted

LOG3 = math.log(3.0)


def rows_of(*logprobs: list[float]) -> tuple[Data, Data]:
    """Rows with these log-probs of trained tokens; NaN is an untrained token."""
    lp = arr(*logprobs)
    mask = np.concatenate([np.ones((len(lp), 1)), (~np.isnan(lp)).astype(np.float64)], axis=1)
    return {"token_mask": mask}, {"next_token_logprobs": lp}


def random_groups(seed: int, rows: int = 6) -> tuple[Data, Data]:
    batch, outputs = random_tokens(seed, rows=rows)
    batch["rewards"] = np.random.default_rng(seed).normal(size=rows)
    return batch, outputs


def test_rows_that_make_no_groups() -> None:
    batch, outputs = log_ratios(0, 1, 2, 3, rewards=(0, 1, 2, 3))
    for oracle in (infonca, plackett_luce_dpo, lipo, rrhf):
        with pytest.raises(ValueError, match="groups of 3"):
            oracle(batch, outputs, group_size=3)
    for triples in (tpo, tpo_l):
        with pytest.raises(ValueError, match="groups of 3"):
            triples(batch, outputs)


def test_infonca_by_hand() -> None:
    # Targets 1/4, 3/4 (rewards 0, log 3); r = 0, 1: log softmax = -softplus(1), -softplus(-1).
    batch, outputs = log_ratios(0, 2, rewards=(0, LOG3))
    assert infonca(batch, outputs, beta=0.5) == near(0.25 * SP1 + 0.75 * (SP1 - 1))
    assert infonca(batch, outputs, beta=0.5, variant="nca") == near(0.25 * LOG2 + 0.75 * (SP1 - 1) + (LOG2 + SP1) / 2)
    # alpha halves or doubles the rewards: targets 1/10, 9/10.
    assert infonca(batch, outputs, beta=0.5, alpha=0.5) == near(0.1 * SP1 + 0.9 * (SP1 - 1))
    # Three rows: targets 1/4, 1/4, 1/2, r = 0, 0, log 2, softmax 1/4, 1/4, 1/2: the entropy 1.5 log 2, the minimum.
    batch, outputs = log_ratios(0, 0, LOG2, rewards=(5, 5, 5 + LOG2))
    assert infonca(batch, outputs, beta=1.0, group_size=3) == near(1.5 * LOG2)
    for h in ((0.1, 0, LOG2), (0, 0, LOG2 + 0.1)):
        assert infonca(batch, log_ratios(*h)[1], beta=1.0, group_size=3) > 1.5 * LOG2
    with pytest.raises(ValueError, match="variant"):
        infonca(batch, outputs, group_size=3, variant="pair")


def test_plackett_luce_by_hand() -> None:
    # Order 2, 0, 1: r = 1, 0, -log(e - 1): 1 - [..], with e^r = e, 1, 1/(e - 1).
    batch, outputs = log_ratios(0, -math.log(math.e - 1), 1, rewards=(2, 1, 3))
    small = 1 / (math.e - 1)
    expected = -1 + math.log(math.e + 1 + small) + math.log(1 + small)
    assert plackett_luce_dpo(batch, outputs, beta=1.0, group_size=3) == near(expected)
    # Equal rewards: the earlier row first. r = 1, 0 gives softplus(-1), r = 0, 1 softplus(1).
    assert plackett_luce_dpo(*log_ratios(1, 0, rewards=(7, 7)), beta=1.0) == near(SP1 - 1)
    assert plackett_luce_dpo(*log_ratios(0, 1, rewards=(7, 7)), beta=1.0) == near(SP1)


def test_lipo_by_hand() -> None:
    # Ranks of s = 1, 0, 2: 2, 3, 1. Gains with rewards 1, 0, 2: 2^1 - 1 = 1, 2^2 - 2^1 = 2, 2^2 - 1 = 3.
    batch, outputs = log_ratios(2, 0, 4, rewards=(1, 0, 2))
    d1, d2, d3 = 1 / LOG2, 1 / LOG3, 1 / math.log(4)
    expected = (d2 - d3) * (SP1 - 1) + 2 * (d1 - d2) * (SP1 - 1) + 3 * (d1 - d3) * (SP2 - 2)
    assert lipo(batch, outputs, beta=0.5, group_size=3) == near(expected)
    # Misordered, s = 1, 0 with rewards 0, 1: gain 1, softplus(1).
    batch, outputs = log_ratios(2, 0, rewards=(0, 1))
    assert lipo(batch, outputs, beta=0.5) == near((d1 - d2) * SP1)
    # Equal s: the earlier row ranks first, and the discounts still differ. Equal rewards: nothing.
    for rewards in ((0, 1), (1, 0)):
        assert lipo(*log_ratios(2, 2, rewards=rewards)) == near((d1 - d2) * LOG2)
    assert lipo(*log_ratios(2, 0, rewards=(3, 3))) == 0.0
    # Halves as rewards: 2^(1/2) - 2^(-1/2) = 1/sqrt 2.
    assert lipo(*log_ratios(2, 2, rewards=(0.5, -0.5))) == near((d1 - d2) * LOG2 / math.sqrt(2))


def test_rrhf_by_hand() -> None:
    # p = -4 over 2, -3 over 1, -1 over 1; averages -2, -3, -1; rewards 3, 2, 1.
    batch, outputs = rows_of([-1, -3], [-3, NAN], [-1, NAN])
    batch["rewards"] = arr(3, 2, 1)
    # Violations: 1 below 3: -1 + 2 = 1; 1 below 2: -1 + 3 = 2; 2 below 3: -3 + 2 < 0. NLL of the best: 4.
    assert rrhf(batch, outputs, group_size=3) == near(3.0 + 4.0)
    assert rrhf(batch, outputs, group_size=3, nll_weight=0.5) == near(3.0 + 2.0)
    # Sums: 1 below 3: 3; 1 below 2: 2; 2 below 3: 1.
    assert rrhf(batch, outputs, group_size=3, length_penalty=0.0) == near(6.0 + 4.0)
    assert rrhf(batch, outputs, group_size=3, length_penalty=2.0, nll_weight=0.0) == near(2.0)
    # Equal rewards: no ranking, and the first row is the best.
    batch["rewards"] = arr(2, 2, 2)
    assert rrhf(batch, outputs, group_size=3) == near(4.0)
    # A sum: weights count in full, S_g does not.
    heavy = {**batch, "sample_mask": arr(2, 3, 4), "global_valid_seqs": np.array(30.0)}
    assert rrhf(heavy, outputs, group_size=3) == near(8.0)


def test_triples_by_hand() -> None:
    # p = -6, -8, gold -1 - 3; averages -3, -4, -2.
    batch, outputs = rows_of([-2, -4], [-5, -3], [-1, -3])
    assert tpo(batch, outputs, beta=0.5) == near(SP1 - 1 + 2)
    assert tpo(batch, outputs, beta=0.5, tpo_alpha=0.25, label_smoothing=0.1) == near(SP1 - 1 + 0.1 + 0.5)
    assert tpo(batch, outputs, beta=0.25, loss_type="hinge") == near(0.5 + 2)
    assert tpo(batch, outputs, beta=0.25, loss_type="ipo") == near((1 - 2) ** 2 + 2)
    assert tpo(batch, outputs) == near(math.log1p(math.exp(-0.02)) + 2)
    assert tpo_l(batch, outputs, beta=1.5) == near(SP1 - 1 + 2)
    assert tpo_l(batch, outputs, beta=1.0, gamma=2.0, tpo_alpha=0.0) == near(SP1)
    assert slic_hf_with_target(batch, outputs, delta=5.0, lambda_=0.5) == near(3.0 + 2.0)
    assert slic_hf_with_target(batch, outputs, lambda_=0.5) == near(2.0)
    with pytest.raises(ValueError, match="unknown loss_type"):
        tpo(batch, outputs, loss_type="mean")
    with pytest.raises(ValueError, match="unknown nll_average"):
        tpo(batch, outputs, nll_average="mean")


def test_target_nll_by_hand() -> None:
    # Gold rows: 1, 3 (mean 2) and 6. Chosen and rejected alike.
    batch, outputs = rows_of([-2, NAN], [-2, NAN], [-1, -3], [-5, -1], [-5, -1], [-6, NAN])
    for oracle, neutral in ((tpo, LOG2), (tpo_l, math.log1p(math.exp(0.5)))):
        assert oracle(batch, outputs) == near(neutral + 4.0)
        assert oracle(batch, outputs, nll_average="tokens") == near(neutral + 10 / 3)
        # Weights 1 and 1/2 of the triples: (2 + 3)/1.5 and (4 + 3)/2.5.
        weighted = {**batch, "sample_mask": arr(1, 1, 1, 1, 0.5, 1)}
        assert oracle(weighted, outputs) == near(neutral + 10 / 3)
        assert oracle(weighted, outputs, nll_average="tokens") == near(neutral + 2.8)
        # S_g = 12 rows are 4 triples.
        counted = {**batch, "global_valid_seqs": np.array(12.0)}
        assert oracle(counted, outputs) == near((neutral + 4.0) / 2)
        assert oracle(counted, outputs, nll_average="tokens") == near(neutral / 2 + 10 / 3)


def test_value_where_policy_is_reference() -> None:
    batch, outputs = at_reference(40)
    assert infonca(batch, outputs) == near(LOG2)
    assert infonca(batch, outputs, group_size=4) == near(2 * LOG2)
    assert infonca(batch, outputs, group_size=4, variant="nca") == near(2 * LOG2)
    assert plackett_luce_dpo(batch, outputs) == near(LOG2)
    assert plackett_luce_dpo(batch, outputs, group_size=4) == near(math.log(24))


def test_reductions() -> None:
    batch, outputs = random_groups(41)
    one_hot = {**batch, "rewards": np.array([900.0, 0, 900, 0, 900, 0])}
    assert infonca(one_hot, outputs) == near(dpo(batch, outputs))
    assert infonca(one_hot, outputs, variant="nca") == near(nca_pair(batch, outputs))
    assert plackett_luce_dpo(one_hot, outputs) == near(dpo(batch, outputs))
    # Groups of one row: no preference; rrhf is the sum of -p.
    assert infonca(batch, outputs, group_size=1) == near(0.0)
    assert plackett_luce_dpo(batch, outputs, group_size=1) == near(0.0)
    assert lipo(batch, outputs, group_size=1) == 0.0
    p = (gathered(batch, outputs) * batch["token_mask"][:, 1:]).sum()
    assert rrhf(batch, outputs, group_size=1) == near(-float(p))
    # lipo of two in the right order of s, gap 1 of gains: dpo times the discounts' gap.
    gains = {**batch, "rewards": np.array([1.0, 0] * 3)}
    assert lipo(gains, outputs) == near((1 / LOG2 - 1 / LOG3) * dpo(batch, outputs))


def test_triples_without_a_target_are_pairs() -> None:
    batch, outputs = random_groups(42)
    rows = [0, 1, 3, 4]
    pairs, policy = permuted(batch, rows), permuted(outputs, rows)
    flat = {**pairs, "reference_policy_logprobs": np.zeros((4, 6))}
    assert tpo(batch, outputs, tpo_alpha=0.0, beta=0.3, label_smoothing=0.2) == near(
        cpo(pairs, policy, alpha=0.0, beta=0.3, label_smoothing=0.2)
    )
    assert tpo(batch, outputs, tpo_alpha=0.0, beta=0.3, loss_type="hinge") == near(hinge_dpo(flat, policy, beta=0.3))
    assert tpo(batch, outputs, tpo_alpha=0.0, beta=0.3, loss_type="ipo") == near(
        ipo(flat, policy, beta=0.3, average_log_probs=True)
    )
    assert tpo_l(batch, outputs, tpo_alpha=0.0, beta=0.3) == near(simpo(pairs, policy, beta=0.3))
    assert slic_hf_with_target(pairs, policy) == near(slic_hf(pairs, policy))
    assert slic_hf_with_target(batch, outputs, delta=9.0, lambda_=1e-9) == pytest.approx(
        slic_hf(pairs, policy, delta=9.0), rel=1e-6
    )
    # The gold row as the chosen one: tpo is cpo.
    gold = [0, 1, 0, 3, 4, 3]
    assert tpo(permuted(batch, gold), permuted(outputs, gold)) == near(cpo(pairs, policy, beta=0.01))


def test_extremes() -> None:
    batch, outputs = log_ratios(1e5, -1e5, rewards=(0, 1e4))
    assert infonca(batch, outputs, beta=1.0) == near(2e5)
    assert infonca(batch, outputs, beta=1.0, variant="nca") == near(1.5e5)
    assert plackett_luce_dpo(batch, outputs, beta=1.0) == near(2e5)
    assert plackett_luce_dpo(*log_ratios(1e5, -1e5, rewards=(1, 0)), beta=1.0) == 0.0
    assert lipo(*log_ratios(1e5, -1e5, rewards=(1, 0)), beta=1.0) == 0.0
    assert lipo(batch, outputs, beta=1.0) == math.inf


ALL: list[tuple[Oracle, dict[str, Any], int]] = [
    (infonca, {}, 2),
    (infonca, {"group_size": 3, "variant": "nca"}, 3),
    (plackett_luce_dpo, {"group_size": 3}, 3),
    (lipo, {"group_size": 3}, 3),
    (rrhf, {"group_size": 2}, 2),
    (rrhf, {"group_size": 3}, 3),
    (tpo, {}, 3),
    (tpo, {"loss_type": "ipo", "nll_average": "tokens"}, 3),
    (tpo_l, {}, 3),
    (slic_hf_with_target, {"lambda_": 0.7}, 3),
    (slic_hf_with_target, {}, 2),
]


@pytest.mark.parametrize(("oracle", "config", "size"), ALL)
def test_group_losses_share_their_rules(oracle: Oracle, config: dict[str, Any], size: int) -> None:
    batch, outputs = random_groups(43)
    value = oracle(batch, outputs, **config)
    assert isinstance(value, float)
    lp: Data = {"next_token_logprobs": gathered(batch, outputs)}
    assert oracle(batch, lp, **config) == near(value)
    assert oracle({k: v for k, v in batch.items() if k != "sample_mask"}, outputs, **config) == near(value)
    # The groups in another order, and each twice.
    order = np.arange(6).reshape(-1, size)[::-1].ravel()
    assert oracle(permuted(batch, order), permuted(lp, order), **config) == near(value)
    twice = np.concatenate([np.arange(6), order])
    doubled = 2 * value if oracle is rrhf else value
    assert oracle(permuted(batch, twice), permuted(lp, twice), **config) == near(doubled)
    assert oracle(*soiled(batch, lp, absent_rows=size), **config) == near(value)
    assert oracle({**batch, "sample_mask": np.zeros(6)}, lp, **config) == 0.0
    # One absent row takes its group out.
    absent, rest = np.ones(6), np.arange(6) // size != 1
    absent[size] = 0.0
    kept = oracle(permuted(batch, rest), permuted(lp, rest), **config)
    assert oracle({**batch, "sample_mask": absent}, lp, **config) == near(kept)


@pytest.mark.parametrize("oracle", [infonca, plackett_luce_dpo, lipo, rrhf])
def test_losses_of_distinct_rewards_ignore_the_order_in_a_group_and_a_common_shift(oracle: Oracle) -> None:
    batch, outputs = random_groups(44)
    order = [2, 0, 1, 5, 4, 3]
    value = oracle(batch, outputs, group_size=3)
    assert oracle(permuted(batch, order), permuted(outputs, order), group_size=3) == near(value)
    if oracle is not rrhf:
        one = log_ratios(3, 1, 2, rewards=(0, 2, 1))
        more = log_ratios(8, 6, 7, rewards=(0, 2, 1))
        assert oracle(*more, group_size=3) == near(oracle(*one, group_size=3))


def test_default_settings() -> None:
    assert defaults(infonca) == {"group_size": 2, "beta": 0.1, "alpha": 1.0, "variant": "infonca"}
    for oracle in (plackett_luce_dpo, lipo):
        assert defaults(oracle) == {"group_size": 2, "beta": 0.1}
    assert defaults(rrhf) == {"group_size": 2, "length_penalty": 1.0, "nll_weight": 1.0}
    assert defaults(tpo) == {
        "beta": 0.01,
        "tpo_alpha": 1.0,
        "label_smoothing": 0.0,
        "loss_type": "sigmoid",
        "nll_average": "sequence",
    }
    assert defaults(tpo_l) == {"beta": 0.01, "tpo_alpha": 1.0, "gamma": 0.5, "nll_average": "sequence"}
    assert defaults(slic_hf_with_target) == {"delta": 1.0, "lambda_": 0.0}


def test_the_least_weight_is_the_groups() -> None:
    batch, outputs = log_ratios(2, 0, 0, 2, rewards=(1, 0, 1, 0))
    batch["sample_mask"] = arr(1, 0.5, 2, 1)
    assert plackett_luce_dpo(batch, outputs, beta=0.5) == near((0.5 * (SP1 - 1) + SP1) / 1.5)
    soft = SIG1 * (SP1 - 1) + (1 - SIG1) * SP1
    hard = SIG1 * SP1 + (1 - SIG1) * (SP1 - 1)
    assert infonca(batch, outputs, beta=0.5) == near((0.5 * soft + hard) / 1.5)
    assert infonca({**batch, "global_valid_seqs": np.array(8.0)}, outputs, beta=0.5) == near((0.5 * soft + hard) / 4)
