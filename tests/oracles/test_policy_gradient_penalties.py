"""The oracles of the KL penalties and the entropy bonus against hand-worked numbers, reductions and rules."""

import math
from typing import Any

import numpy as np
import pytest

from .policy_gradient import grpo, ppo_clip
from .policy_gradient_penalties import (
    entropy,
    entropy_bonus,
    kl_abs,
    kl_k1,
    kl_k2,
    kl_k3,
    kl_straight_through,
    kl_unbiased,
    quantile,
)
from .shared_rules import soiled
from .test_oracles import LOG2, NAN, Data, Oracle, arr, near
from .test_oracles_more import defaults, permuted
from .test_oracles_more_policy import random_case

BY_TYPE: dict[str, Oracle] = {"k1": kl_k1, "k2": kl_k2, "k3": kl_k3, "abs": kl_abs}


def gaps(*d: list[float], old: float = 0.0) -> tuple[Data, Data]:
    """Trained rows with these d = lp - lp_ref, and lp - lp_old = old everywhere."""
    gap = arr(*d)
    hidden = np.full((len(gap), 1), NAN)
    batch: Data = {
        "token_mask": np.ones((len(gap), gap.shape[1] + 1)),
        "reference_policy_logprobs": np.concatenate([hidden, np.full_like(gap, -4.0)], axis=1),
        "prev_logprobs": np.concatenate([hidden, gap - 4.0 - old], axis=1),
    }
    return batch, {"next_token_logprobs": gap - 4.0}


def test_estimates_by_hand() -> None:
    # d = log 2, -log 2, 0, 2.
    batch, outputs = gaps([LOG2, -LOG2], [0, 2])
    expected = {
        "k1": 2.0,
        "k2": LOG2**2 + 2.0,
        "k3": (0.5 - 1 + LOG2) + (2 - 1 - LOG2) + 0 + (math.exp(-2) + 1),
        "abs": 2 * LOG2 + 2.0,
    }
    for name, value in expected.items():
        assert BY_TYPE[name](batch, outputs) == near(value / 4)
        assert BY_TYPE[name](batch, outputs, coefficient=0.3) == near(0.3 * value / 4)
        assert kl_straight_through(batch, outputs, kl_type=name, coefficient=0.3) == near(0.3 * value / 4)
        assert kl_unbiased(batch, outputs, kl_type=name) == near(value / 4)
        for gradient in ("score_function", "straight_through_k2"):
            assert BY_TYPE[name](batch, outputs, kl_gradient=gradient) == near(value / 4)
        assert BY_TYPE[name](batch, outputs, aggregation="fixed", max_length=5) == near(value / 10)
    moved = gaps([LOG2, -LOG2], [0, 2], old=math.log(3))
    for name, value in expected.items():
        assert kl_unbiased(*moved, kl_type=name, coefficient=0.5) == near(1.5 * value / 4)
    with pytest.raises(ValueError, match="kl_gradient"):
        kl_k1(batch, outputs, kl_gradient="none")
    with pytest.raises(ValueError, match="kl_type"):
        kl_straight_through(batch, outputs, kl_type="k4")


def test_clamps_by_hand() -> None:
    batch, outputs = gaps([3, -3])
    clamp: dict[str, Any] = {"input_clamp": 2.0}
    assert kl_k1(*gaps([3, -1]), **clamp) == near(0.5)
    assert kl_k2(batch, outputs, **clamp) == near(2.0)
    assert kl_abs(batch, outputs, **clamp) == near(2.0)
    assert kl_k3(batch, outputs, **clamp) == near((math.exp(-2) + math.exp(2) - 2) / 2)
    # Values 3 and -3, 4.5 twice, e^-3 + 2 and e^3 - 4 = 16.1.
    assert kl_k1(batch, outputs, output_clamp=2.0) == near(0.0)
    assert kl_k1(*gaps([-3, -1]), output_clamp=2.0) == near(-1.5)
    assert kl_k2(batch, outputs, output_clamp=4.0) == near(4.0)
    assert kl_k3(batch, outputs, output_clamp=10.0) == near((math.exp(-3) + 2 + 10) / 2)
    # Both; of the unbiased one the product with the ratio, 2, is within 4.
    assert kl_k3(batch, outputs, input_clamp=2.0, output_clamp=4.0) == near((math.exp(-2) + 1 + 4) / 2)
    assert kl_unbiased(*gaps([3, -3], old=LOG2), input_clamp=2.0, output_clamp=4.0) == near(
        (2 * (math.exp(-2) + 1) + 4) / 2
    )
    for name, oracle in BY_TYPE.items():
        both: dict[str, Any] = {"input_clamp": 1.5, "output_clamp": 0.7}
        assert kl_straight_through(batch, outputs, kl_type=name, **both) == near(oracle(batch, outputs, **both))


def test_kl_extremes() -> None:
    batch, outputs = gaps([-1e4])
    assert kl_k3(batch, outputs) == math.inf
    assert kl_k3(batch, outputs, input_clamp=20.0, output_clamp=10.0) == near(10.0)
    assert kl_k3(*gaps([1e4])) == near(9999.0)
    # r k3 = e^{delta - d} where neither factor is a float64: delta = -1e4 - 1, then d = -1e4.
    assert kl_unbiased(*gaps([-1e4], old=-1e4 - 1)) == near(math.exp(-1))
    assert kl_unbiased(*gaps([-1e4], old=-1e4 - 1), kl_type="k2") == 0.0
    assert kl_unbiased(*gaps([0.0], old=1e4)) == 0.0
    assert kl_unbiased(*gaps([-2.0], old=-LOG2), kl_type="k1") == near(-1.0)


def test_kl_laws() -> None:
    batch, outputs = random_case(80)
    for name, oracle in BY_TYPE.items():
        with_kl = grpo(batch, outputs, kl_type=name, reference_policy_kl_penalty=0.25)
        without = ppo_clip(batch, outputs, aggregation="seq_mean_token_mean")
        assert oracle(batch, outputs, coefficient=0.25, aggregation="seq_mean_token_mean") == near(with_kl - without)
        zero = {**batch, "reference_policy_logprobs": batch["reference_policy_logprobs"].copy()}
        zero["reference_policy_logprobs"][:, 1:] = outputs["next_token_logprobs"]
        assert oracle(zero, outputs) == 0.0
        assert oracle(batch, outputs, coefficient=0.0) == 0.0
        if name != "k1":
            assert oracle(batch, outputs) > 0.0


def test_unbiased_k1_and_k3_agree_in_expectation() -> None:
    # Sampling from lp_old over three tokens: sum_v p_old r k = KL(policy || reference), for k1 and k3.
    policy, old, reference = arr(0.5, 0.3, 0.2), arr(0.2, 0.2, 0.6), arr(0.1, 0.4, 0.5)
    for kl_type in ("k1", "k3"):
        total = 0.0
        for v in range(3):
            batch: Data = {
                "token_mask": np.ones((1, 2)),
                "prev_logprobs": arr([NAN, math.log(old[v])]),
                "reference_policy_logprobs": arr([NAN, math.log(reference[v])]),
            }
            outputs: Data = {"next_token_logprobs": arr([math.log(policy[v])])}
            total += old[v] * kl_unbiased(batch, outputs, kl_type=kl_type)
        assert total == near(float((policy * np.log(policy / reference)).sum()))


# --- entropy ----------------------------------------------------------------------------------------------------


def test_entropy_by_hand() -> None:
    assert entropy([5.0] * 8) == near(3 * LOG2)
    assert entropy([3 + math.log(2), 3.0, 3.0]) == near(1.5 * LOG2)
    assert entropy([0.0, -math.inf, 0.0]) == near(LOG2)
    assert entropy([1e4, -1e4]) == 0.0
    assert entropy([1e4, 1e4, -1e4]) == near(LOG2)


def test_quantile_by_hand() -> None:
    values = [4.0, 1.0, 2.0]
    assert [quantile(values, q) for q in (0.0, 0.25, 0.5, 0.75, 1.0)] == [1.0, 1.5, 2.0, 3.0, 4.0]
    assert quantile([7.0], 0.3) == 7.0
    many = np.random.default_rng(1).normal(size=11)
    for q in (0.05, 0.31, 0.9):
        assert quantile(list(many), q) == near(float(np.quantile(many, q)))


def entropies(*h: list[int]) -> tuple[Data, Data]:
    """Trained tokens of entropy h log 2: uniform over 2^h of 8 tokens."""
    logits = np.full((len(h), len(h[0]) + 1, 8), -np.inf)
    for b, row in enumerate(h):
        for t, exponent in enumerate(row):
            logits[b, t, : 2**exponent] = 3.0
    return {"token_mask": np.ones(logits.shape[:2])}, {"logits": logits}


def test_entropy_bonus_by_hand() -> None:
    batch, outputs = entropies([0, 1], [2, 3])
    assert entropy_bonus(batch, outputs) == near(-0.01 * 1.5 * LOG2)
    # Thresholds: the 0.5-quantile 1.5 keeps 2, 3; the 0.75-quantile 2.25 keeps 3; 1 keeps the highest; of 4 tokens.
    for q, kept in ((0.75, 6), (0.5, 5), (0.25, 3), (0.0, 3)):
        assert entropy_bonus(batch, outputs, coefficient=2.0, top_quantile=q) == near(-2 * kept / 4 * LOG2)
    # Rows: means 1/2 and 5/2, after the cut 0 and 5/2.
    by_row: dict[str, Any] = {"coefficient": 1.0, "aggregation": "seq_mean_token_mean"}
    assert entropy_bonus(batch, outputs, **by_row) == near(-1.5 * LOG2)
    assert entropy_bonus(batch, outputs, top_quantile=0.5, **by_row) == near(-1.25 * LOG2)
    # Equal entropies are all kept.
    assert entropy_bonus(*entropies([2, 2, 2]), coefficient=1.0, top_quantile=0.0) == near(-2 * LOG2)
    # An untrained token is in no quantile, row weights are in none either: 1, 2 left, median 1.5.
    batch["token_mask"] = arr([1, 0, 1], [1, 1, 0])
    batch["sample_mask"] = arr(1, 3)
    assert entropy_bonus(batch, outputs, coefficient=1.0, top_quantile=0.5) == near(-3 * 2 / 4 * LOG2)
    assert entropy_bonus({**batch, "global_valid_toks": np.array(8.0)}, outputs, coefficient=1.0) == near(-7 / 8 * LOG2)


def test_entropy_bonus_of_uniform_logits() -> None:
    batch, outputs = random_case(81)
    for q in (1.0, 0.3):
        uniform = entropy_bonus(batch, {"logits": np.full((4, 6, 5), 2.0)}, coefficient=0.5, top_quantile=q)
        assert uniform == near(-0.5 * math.log(5))
    assert -0.5 * math.log(5) < entropy_bonus(batch, outputs, coefficient=0.5) < 0.0


ALL: list[tuple[Oracle, dict[str, Any]]] = [
    *((oracle, {}) for oracle in (kl_k1, kl_k2, kl_k3, kl_abs, kl_straight_through, kl_unbiased)),
    (kl_k3, {"aggregation": "seq_mean_token_sum", "input_clamp": 0.5}),
    (entropy_bonus, {"coefficient": 1.0}),
    (entropy_bonus, {"top_quantile": 0.3, "aggregation": "fixed", "max_length": 4.0}),
]


@pytest.mark.parametrize(("oracle", "config"), ALL)
def test_penalties_share_their_rules(oracle: Oracle, config: dict[str, Any]) -> None:
    batch, outputs = random_case(82)
    value = oracle(batch, outputs, **config)
    assert isinstance(value, float)
    needed: Data = {"logits": outputs["logits"]}
    assert oracle(batch, needed, **config) == near(value)
    assert oracle({k: v for k, v in batch.items() if k != "sample_mask"}, outputs, **config) == near(value)
    for rows in ([2, 0, 3, 1], [0, 1, 2, 3, 0, 1, 2, 3]):
        if config.get("top_quantile", 1.0) == 1.0 or len(rows) == 4:
            assert oracle(permuted(batch, rows), permuted(outputs, rows), **config) == near(value)
    tokens = {k: outputs[k] for k in ("logits", "next_token_logprobs")}
    assert oracle(*soiled(batch, tokens, absent_rows=2), **config) == near(value)
    assert oracle({**batch, "sample_mask": np.zeros(4)}, outputs, **config) == 0.0


def test_default_settings() -> None:
    mean = {"aggregation": "token_mean", "max_length": None}
    clamps = {"coefficient": 1.0, "input_clamp": None, "output_clamp": None}
    for oracle in BY_TYPE.values():
        assert defaults(oracle) == {**clamps, "kl_gradient": "pathwise", **mean}
    assert defaults(kl_straight_through) == {"kl_type": "k3"}
    assert defaults(kl_unbiased) == {"kl_type": "k3", **clamps, **mean}
    assert defaults(entropy_bonus) == {"coefficient": 0.01, "top_quantile": 1.0, "divisor": "trained", **mean}
