"""The advantage estimators against hand-worked numbers, laws and reductions."""

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from .advantage_estimators import (
    batch_scaled_advantages,
    dr_grpo_advantages,
    gae,
    gdpo_advantages,
    gpg_advantages,
    grpo_advantages,
    grpo_leave_one_out_advantages,
    grpo_passk_advantages,
    opd_advantages,
    opo_advantages,
    optimal_token_baseline_advantages,
    reinforce_plus_plus_advantages,
    reinforce_plus_plus_baseline_advantages,
    remax_advantages,
    reward_advantages,
    reward_to_go,
    rloo_advantages,
    vapo_gae,
    whitened,
)
from .test_oracles import NAN, arr
from .test_oracles_more_policy import near_array

# Two prompts, mixed, and one of a single row: rewards 1, 2, 6 (mean 3, deviation sqrt 7), 5, 1 and 4.
REWARDS, GROUPS = arr(1, 5, 2, 4, 6, 1), [7, 3, 7, 5, 7, 3]
ROOT7, ROOT8 = math.sqrt(7), math.sqrt(8)


def test_group_means_by_hand() -> None:
    centred = arr(-2, 2, -1, 0, 3, -2)
    assert dr_grpo_advantages(REWARDS, GROUPS) == near_array(centred)
    scale = arr(ROOT7, ROOT8, ROOT7, 1, ROOT7, ROOT8)
    assert grpo_advantages(REWARDS, GROUPS, epsilon=0.0) == near_array(centred / scale)
    assert grpo_advantages(REWARDS, GROUPS, epsilon=0.5) == near_array(centred / (scale + 0.5))
    assert grpo_advantages(REWARDS, GROUPS, singleton="reward")[3] == 4.0
    # Deviation of 1, 5, 2, 4, 6, 1: mean 19/6, squares 83 - 361/6.
    deviation = math.sqrt((83 - 361 / 6) / 5)
    assert batch_scaled_advantages(REWARDS, GROUPS) == near_array(centred / (deviation + 1e-4))
    # Others' means 4, 1, 3.5, -, 1.5, 5.
    left_out = arr(-3, 4, -1.5, 0, 4.5, -4)
    assert rloo_advantages(REWARDS, GROUPS) == near_array(left_out)
    assert rloo_advantages(REWARDS, GROUPS, singleton="reward")[3] == 4.0
    # Others' deviations sqrt 8, none, sqrt 12.5, -, sqrt 0.5, none.
    scale = arr(ROOT8, 1, math.sqrt(12.5), 1, math.sqrt(0.5), 1)
    assert grpo_leave_one_out_advantages(REWARDS, GROUPS, epsilon=0.0) == near_array(left_out / scale)
    # Every reward differs from 0, then two of six do not: alpha 1 and 3/2.
    assert gpg_advantages(REWARDS, GROUPS, f_norm=2.0) == near_array(centred / 2)
    some = arr(0, 4, 3, 0, 3, 2)
    assert gpg_advantages(some, GROUPS) == near_array(1.5 * arr(-2, 1, 1, 0, 1, -1))
    assert gpg_advantages(np.zeros(6), GROUPS) == near_array(np.zeros(6))
    for estimator in (grpo_advantages, rloo_advantages):
        with pytest.raises(ValueError, match="singleton"):
            estimator(REWARDS, GROUPS, singleton="one")


def test_leave_one_out_of_valid_rows_by_hand() -> None:
    # Row 4 out: rows 0 and 2 are a pair; equal others have no deviation.
    valid = arr(1, 1, 1, 1, 0, 1)
    assert grpo_leave_one_out_advantages(REWARDS, GROUPS, valid=valid) == near_array(arr(-1, 4, 1, 0, 0, -4))
    hidden = REWARDS.copy()
    hidden[4] = NAN
    assert grpo_leave_one_out_advantages(hidden, GROUPS, valid=valid) == near_array(arr(-1, 4, 1, 0, 0, -4))
    assert grpo_leave_one_out_advantages(arr(5, 0.1, 0.1, 0.1), [0] * 4)[0] == pytest.approx(4.9)
    assert grpo_leave_one_out_advantages(REWARDS, GROUPS, valid=arr(1, 0, 0, 0, 0, 0)) == near_array(np.zeros(6))


def test_passk_by_hand() -> None:
    expected = arr(0, 4 / ROOT8, 0, 0, 4 / ROOT7, 0)
    assert grpo_passk_advantages(REWARDS, GROUPS, epsilon=0.0) == near_array(expected)
    assert grpo_passk_advantages(REWARDS, GROUPS, epsilon=1.0)[1] == pytest.approx(4 / (ROOT8 + 1))
    # Equal best rows: nothing.
    assert grpo_passk_advantages(arr(3, 1, 3), [0, 0, 0]) == near_array(np.zeros(3))


def test_opo_by_hand() -> None:
    # Baselines (1*1 + 2*2 + 6*5)/8 = 35/8, (5*3 + 1*1)/4 = 4, and the row itself.
    lengths = [1, 3, 2, 9, 5, 1]
    assert opo_advantages(REWARDS, lengths, GROUPS) == near_array(arr(-27, 8, -19, 0, 13, -24) / 8)
    assert opo_advantages(REWARDS, np.full(6, 3), GROUPS) == near_array(dr_grpo_advantages(REWARDS, GROUPS))


def test_gdpo_by_hand() -> None:
    # Columns 0, 2 and 3, 1, deviations sqrt 2: -+1/sqrt 2 and +-1/sqrt 2; twice the second: +-1/sqrt 2, deviation 1.
    rewards, root = arr([0, 3], [2, 1]), math.sqrt(0.5)
    assert gdpo_advantages(rewards, [0, 0], epsilon=0.0, weights=[1, 2]) == near_array(arr(root, -root))
    assert gdpo_advantages(rewards, [0, 0]) == near_array(np.zeros(2))
    e = 1e-4
    x = 1 / (math.sqrt(2) + e)
    assert gdpo_advantages(rewards, [0, 0], weights=[1, 2]) == near_array(arr(x, -x) / (math.sqrt(2) * x + e))
    # One reward is grpo, normalised once more.
    one = grpo_advantages(REWARDS, GROUPS, epsilon=e)
    again = one / (math.sqrt(float((one**2).sum()) / 5) + e)
    assert gdpo_advantages(REWARDS[:, None], GROUPS) == near_array(again)


def test_group_laws() -> None:
    rng = np.random.default_rng(0)
    rewards, groups = rng.normal(size=12), np.repeat([0, 1, 2], 4)[rng.permutation(12)]
    for estimator in (
        grpo_advantages,
        dr_grpo_advantages,
        batch_scaled_advantages,
        rloo_advantages,
    ):
        a = estimator(rewards, groups)
        assert [a[groups == g].sum() for g in range(3)] == near_array(np.zeros(3))
        assert estimator(rewards + 5.0, groups) == near_array(a)
    normal: dict[str, Any] = {"epsilon": 0.0}
    for estimator in (
        grpo_advantages,
        batch_scaled_advantages,
        grpo_leave_one_out_advantages,
        grpo_passk_advantages,
    ):
        assert estimator(3.0 * rewards, groups, **normal) == near_array(estimator(rewards, groups, **normal))
    assert rloo_advantages(rewards, groups) == near_array(4 / 3 * dr_grpo_advantages(rewards, groups))


# --- tokens -----------------------------------------------------------------------------------------------------

# Rows of 3 and 2 trained tokens; the second has a masked one in between.
MASK = arr([1, 1, 1], [1, 0, 1])
TOKEN_REWARDS, VALUES = arr([1, 0, 4], [2, NAN, 6]), arr([1, 2, 3], [-1, NAN, 2])


def test_reward_to_go_by_hand() -> None:
    assert reward_to_go(TOKEN_REWARDS, MASK) == near_array(arr([5, 4, 4], [8, 0, 6]))
    assert reward_to_go(TOKEN_REWARDS, MASK, gamma=0.5) == near_array(arr([2, 2, 4], [5, 0, 6]))
    assert reward_advantages([3, -1], MASK) == near_array(arr([3, 3, 3], [-1, 0, -1]))
    assert remax_advantages(TOKEN_REWARDS, MASK, [3, -1]) == near_array(arr([2, 1, 1], [9, 0, 7]))
    assert opd_advantages(TOKEN_REWARDS, VALUES, MASK) == near_array(arr([0, -2, 1], [3, 0, 4]))


def test_whitening_by_hand() -> None:
    # 1, 2, 3, 4, 5: mean 3, squares 10.
    values = arr([1, 2, 3], [4, NAN, 5])
    centred = arr([-2, -1, 0], [1, 0, 2])
    assert whitened(values, MASK) == near_array(centred / math.sqrt(2.5 + 1e-8))
    assert whitened(values, MASK, biased=True) == near_array(centred / math.sqrt(2))
    # Equal values; the floor of the biased form; one token; none.
    assert whitened(np.full((2, 3), 7.0), MASK) == near_array(np.zeros((2, 3)))
    assert whitened(arr([0, 2e-6]), arr([1, 1]), biased=True) == near_array(arr([-1e-2, 1e-2]))
    assert whitened(arr([5.0]), arr([1])) == near_array(arr([0]))
    assert whitened(values, 0 * MASK) == near_array(np.zeros((2, 3)))


def test_reinforce_plus_plus_by_hand() -> None:
    # Rewards to go 5, 4, 4, 8, 6: mean 5.4, squares 0.16 + 1.96 + 1.96 + 6.76 + 0.36 = 11.2.
    centred = arr([-0.4, -1.4, -1.4], [2.6, 0, 0.6])
    assert reinforce_plus_plus_advantages(TOKEN_REWARDS, MASK) == near_array(centred / math.sqrt(2.8 + 1e-8))
    assert reinforce_plus_plus_advantages(TOKEN_REWARDS, MASK, biased=True) == near_array(centred / math.sqrt(2.24))
    assert reinforce_plus_plus_advantages(TOKEN_REWARDS, MASK, gamma=0.5) == near_array(
        whitened(arr([2, 2, 4], [5, 0, 6]), MASK)
    )
    # Rewards 4, 2 of one prompt: 1 at three tokens, -1 at two: mean 1/5, squares 5 - 1/5.
    expected = arr([0.8, 0.8, 0.8], [-1.2, 0, -1.2]) / math.sqrt(1.2 + 1e-8)
    assert reinforce_plus_plus_baseline_advantages([4, 2], [0, 0], MASK) == near_array(expected)


def test_gae_by_hand() -> None:
    # gamma 1/2, lambda 1/2. Row 0: d = 1 + 1 - 1, 0 + 1.5 - 2, 4 - 3 = 1, -0.5, 1; A = 0.9375, -0.25, 1.
    # Row 1, over the masked column: d = 2 + 1 + 1 and 6 - 2; A = 5, 4.
    config: dict[str, Any] = {"gamma": 0.5, "lambda_": 0.5}
    advantages, returns = gae(TOKEN_REWARDS, VALUES, MASK, **config)
    assert advantages == near_array(arr([0.9375, -0.25, 1], [5, 0, 4]))
    assert returns == near_array(arr([1.9375, 1.75, 4], [4, 0, 6]))
    # Through it, with r = V = 0 there: d = 2 + 0 + 1, 0 + 1 - 0, 4; A = 3 + (1 + 4/4)/4.
    through = gae(TOKEN_REWARDS, VALUES, MASK, carry=False, **config)
    assert through[0] == near_array(arr([0.9375, -0.25, 1], [3.5, 0, 4]))
    assert through[1] == near_array(arr([1.9375, 1.75, 4], [2.5, 0, 6]))
    # A rate per row.
    mixed = gae(TOKEN_REWARDS, VALUES, MASK, gamma=0.5, lambda_=arr(0, 0.5))[0]
    assert mixed == near_array(arr([1, -0.5, 1], [5, 0, 4]))


def random_episode(seed: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    rng = np.random.default_rng(seed)
    mask = (rng.random((3, 7)) < 0.7).astype(np.float64)
    rewards, values = rng.normal(size=(2, 3, 7))
    rewards[mask == 0.0] = values[mask == 0.0] = NAN
    return rewards, values, mask


def test_gae_laws() -> None:
    rewards, values, mask = random_episode(1)
    to_go = reward_to_go(rewards, mask)
    clean = np.where(mask == 0.0, 0.0, values)
    advantages, returns = gae(rewards, values, mask)
    assert advantages == near_array(to_go - clean)
    assert returns == near_array(to_go)
    zeros = np.zeros_like(mask)
    assert gae(rewards, zeros, mask, gamma=0.9)[0] == near_array(reward_to_go(rewards, mask, gamma=0.9))
    full = np.ones_like(mask)
    dense = np.where(mask == 0.0, 0.0, rewards)
    config: dict[str, Any] = {"gamma": 0.9, "lambda_": 0.7}
    for one, other in zip(
        gae(dense, clean, full, **config), gae(dense, clean, full, carry=False, **config), strict=True
    ):
        assert one == near_array(other)
    # lambda = 0: the one-step errors.
    steps = dense + 0.9 * np.concatenate([clean[:, 1:], np.zeros((3, 1))], axis=1) - clean
    assert gae(dense, clean, full, gamma=0.9, lambda_=0.0)[0] == near_array(steps)


def test_vapo_gae_by_hand() -> None:
    # Lengths 3 and 2: at alpha = 1, lambda = 2/3 and 1/2; at alpha = 1/2, 1/3 and 0; below that 0.
    for alpha, rates in ((1.0, arr(2 / 3, 1 / 2)), (0.5, arr(1 / 3, 0)), (0.05, arr(0, 0))):
        advantages, returns = vapo_gae(TOKEN_REWARDS, VALUES, MASK, gamma=0.5, alpha=alpha)
        assert advantages == near_array(gae(TOKEN_REWARDS, VALUES, MASK, gamma=0.5, lambda_=rates)[0])
        assert returns == near_array(arr([2, 2, 4], [5, 0, 6]))
    assert vapo_gae(TOKEN_REWARDS, VALUES, MASK, gamma=0.5, value_lambda=0.5)[1] == near_array(
        arr([1.9375, 1.75, 4], [4, 0, 6])
    )
    # Row 0 at lambda 2/3, gamma 1: d = 2, 1, 1.
    assert vapo_gae(TOKEN_REWARDS, VALUES, MASK, alpha=1.0)[0][0] == near_array(arr(28 / 9, 5 / 3, 1))
    assert vapo_gae(TOKEN_REWARDS, VALUES, 0 * MASK)[0] == near_array(np.zeros((2, 3)))


def test_optimal_token_baseline_by_hand() -> None:
    # 1 - 2 pi + squares: row 0: 1, 1, 1/2 at pi 1/2, 1/2, 3/4; row 1: 2, -, 1. W = 1, 2, 2.5 and 2, -, 3.
    logprobs = np.log(arr([0.5, 0.5, 0.75], [0.25, 1, 0.25]))
    squares = arr([1, 1, 1], [1.5, NAN, 0.5])
    # Rewards to go 5, 4, 4 and 8, -, 6: B = 21/3, 4, 28/5.5.
    rewards: tuple[Any, ...] = (TOKEN_REWARDS, MASK, [0, 0], logprobs, squares)
    exact = optimal_token_baseline_advantages(*rewards, epsilon=0.0)
    assert exact == near_array(arr([-2, 0, 4 - 56 / 11], [1, 0, 6 - 56 / 11]))
    assert optimal_token_baseline_advantages(*rewards, epsilon=1.0)[0, 0] == pytest.approx(5 - 21 / 4)
    assert optimal_token_baseline_advantages(*rewards) == pytest.approx(exact, abs=1e-7)
    # Rows of their own prompts keep their rewards to go.
    alone: tuple[Any, ...] = (TOKEN_REWARDS, MASK, [0, 1], logprobs, squares)
    assert optimal_token_baseline_advantages(*alone) == near_array(arr([5, 4, 4], [8, 0, 6]))


def test_optimal_token_baseline_of_the_same_trained_token_by_hand() -> None:
    # As above, the second tokens being those of columns 1 and 2: B = 21/3, (4 * 2 + 6 * 3)/5, and G itself where alone.
    logprobs = np.log(arr([0.5, 0.5, 0.75], [0.25, 1, 0.25]))
    squares = arr([1, 1, 1], [1.5, NAN, 0.5])
    rewards: tuple[Any, ...] = (TOKEN_REWARDS, MASK, [0, 0], logprobs, squares)
    config: dict[str, Any] = {"align": "trained_token", "epsilon": 0.0}
    assert optimal_token_baseline_advantages(*rewards, **config) == near_array(arr([-2, -1.2, 0], [1, 0, 0.8]))
    # Its square: W = 4, 5, 5.5 and 2, -, 3; B = 36/6, (4 * 5 + 6 * 3)/8.
    weights = arr([2, 1, 1], [1, NAN, 1])
    weighted = optimal_token_baseline_advantages(*rewards, weights=weights, **config)
    assert weighted == near_array(arr([-1, -0.75, 0], [2, 0, 1.25]))
    # Without tools in between both are the same.
    whole: tuple[Any, ...] = (np.nan_to_num(TOKEN_REWARDS), np.ones((2, 3)), [0, 0], logprobs, np.nan_to_num(squares))
    assert optimal_token_baseline_advantages(*whole, **config) == near_array(
        optimal_token_baseline_advantages(*whole, epsilon=0.0)
    )
    with pytest.raises(ValueError, match="unknown align"):
        optimal_token_baseline_advantages(*rewards, align="end")


def test_optimal_token_baseline_of_equal_weights_is_the_mean() -> None:
    rewards, _, mask = random_episode(2)
    mask[:] = 1.0
    dense = np.nan_to_num(rewards)
    lp = np.full((3, 7), math.log(0.5))
    advantages = optimal_token_baseline_advantages(dense, mask, [4, 4, 4], lp, np.full((3, 7), 0.5), epsilon=0.0)
    to_go = reward_to_go(dense, mask)
    assert advantages == near_array(to_go - to_go.mean(0))
