"""Advantage estimators, by hand and by law."""

from __future__ import annotations

import math
from itertools import product, zip_longest
from typing import Any

import pytest
import torch
from torch import Tensor

from loss_reference.policy_gradient.advantages import (
    dr_grpo_advantages,
    gae,
    grpo_advantages,
    opo_advantages,
    reinforce_plus_plus_advantages,
    remax_advantages,
    rloo_advantages,
    whiten,
)

R = torch.tensor([1.0, 0, 5, 3, 2, 7], dtype=torch.float64)
GROUPS = torch.tensor([4, 9, 4, 4, 9, 1])
VARIANTS = list(product(("mean", "leave_one_out"), ("group", "leave_one_out", "batch", "none")))


def test_grpo_by_hand() -> None:
    """Groups (1, 5, 3), (0, 2) and (7)."""
    A = grpo_advantages(R, GROUPS, eps=0.5)
    expected = torch.tensor([-2 / 2.5, -1 / (2**0.5 + 0.5), 2 / 2.5, 0, 1 / (2**0.5 + 0.5), 0])
    torch.testing.assert_close(A, expected.double())


def test_nemo_rl_by_hand() -> None:
    """Leave one out: of (1, 5, 3) the others of 1 are (5, 3), with mean 4 and std sqrt 2. Two answers: not divided."""
    A = grpo_advantages(R, GROUPS, baseline="leave_one_out", scale="leave_one_out", eps=0.0)
    expected = torch.tensor([-3 / 2**0.5, -2, 3 / 2**0.5, 0, 2, 0])
    torch.testing.assert_close(A, expected.double())


def test_batch_scale_by_hand() -> None:
    A = grpo_advantages(R, GROUPS, scale="batch", eps=0.0)
    torch.testing.assert_close(A, torch.tensor([-2.0, -1, 2, 0, 1, 0]).double() / R.std())


def test_the_others_by_hand() -> None:
    assert dr_grpo_advantages(R, GROUPS).tolist() == [-2, -1, 2, 0, 1, 0]
    assert rloo_advantages(R, GROUPS).tolist() == [-3, -2, 3, 0, 2, 0]
    assert remax_advantages(R, torch.ones(6)).tolist() == [0, -1, 4, 2, 1, 6]
    lengths = torch.tensor([1, 1, 2, 1, 3, 5])
    expected = torch.tensor([1 - 14 / 4, -1.5, 5 - 14 / 4, 3 - 14 / 4, 0.5, 0])
    torch.testing.assert_close(opo_advantages(R, lengths, GROUPS), expected.double())


@pytest.mark.parametrize(("baseline", "scale"), VARIANTS)
def test_laws_of_the_group_estimators(baseline: Any, scale: Any) -> None:
    g = torch.Generator().manual_seed(1)
    r, groups = torch.randn(40, generator=g, dtype=torch.float64), torch.randint(7, (40,), generator=g)
    A = grpo_advantages(r, groups, baseline, scale, eps=1e-9)
    if scale != "leave_one_out":
        sums = torch.zeros(7, dtype=torch.float64).index_add(0, groups, A)
        torch.testing.assert_close(sums, torch.zeros(7, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(grpo_advantages(r + 3, groups, baseline, scale, eps=1e-9), A)
    factor = 4 if scale == "none" else 1
    torch.testing.assert_close(grpo_advantages(4 * r, groups, baseline, scale, eps=1e-9), factor * A)
    order = torch.randperm(40, generator=g)
    torch.testing.assert_close(grpo_advantages(r[order], groups[order], baseline, scale, eps=1e-9), A[order])
    torch.testing.assert_close(grpo_advantages(r, 100 - 3 * groups, baseline, scale, eps=1e-9), A)


@pytest.mark.parametrize(("baseline", "scale"), VARIANTS)
def test_an_answer_alone_and_a_group_of_equals_get_nothing(baseline: Any, scale: Any) -> None:
    for r in ([3.0, 1, 1, 1], [0.0, 0, 0, 0]):
        A = grpo_advantages(torch.tensor(r), torch.tensor([0, 1, 1, 1]), baseline, scale)
        assert A.tolist() == [0, 0, 0, 0]
    assert grpo_advantages(torch.tensor([7.0]), torch.tensor([0]), baseline, scale).tolist() == [0]
    assert grpo_advantages(torch.zeros(0), torch.zeros(0, dtype=torch.int64), baseline, scale).shape == (0,)


def test_relations_between_the_group_estimators() -> None:
    g = torch.Generator().manual_seed(2)
    r, groups = torch.randn(12, generator=g, dtype=torch.float64), torch.arange(12) // 4
    torch.testing.assert_close(rloo_advantages(r, groups), 4 / 3 * dr_grpo_advantages(r, groups))
    same_length = opo_advantages(r, torch.full((12,), 5), groups)
    torch.testing.assert_close(same_length, dr_grpo_advantages(r, groups))
    lengths = torch.randint(1, 9, (12,), generator=g)
    A = opo_advantages(r, lengths, groups)
    torch.testing.assert_close((lengths * A).reshape(3, 4).sum(dim=1), torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(opo_advantages(r + 2, lengths, groups), A)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"groups has shape \(3,\); expected \(6,\), one per answer"):
        grpo_advantages(R, torch.zeros(3))
    with pytest.raises(ValueError, match=r"rewards has shape \(6, 1\); expected \(B,\)"):
        rloo_advantages(R[:, None], GROUPS)
    with pytest.raises(ValueError, match="baseline='median'"):
        grpo_advantages(R, GROUPS, baseline="median")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="lengths has shape"):
        opo_advantages(R, torch.ones(6, 1), GROUPS)
    with pytest.raises(ValueError, match="greedy has shape"):
        remax_advantages(R, torch.ones(1))
    with pytest.raises(ValueError, match="token_mask has shape"):
        gae(torch.ones(2, 3), torch.ones(2, 3), torch.ones(2, 1))


def tokens(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    rewards, values = torch.randn(2, 3, 6, generator=g, dtype=torch.float64)
    mask = (torch.rand(3, 6, generator=g) < 0.6).double()
    mask[0], mask[1] = 1, 0
    return rewards, values, mask


def test_gae_by_hand() -> None:
    """delta = (1 + .5*4 - 2, 3 - 4) = (1, -1) with gamma 1/2; A_0 = 1 + .5*.5*(-1). The middle token is masked."""
    rewards = torch.tensor([[1.0, math.nan, 3.0]])
    values = torch.tensor([[2.0, math.inf, 4.0]])
    mask = torch.tensor([[1.0, 0, 1]])
    got = gae(rewards, values, mask, gamma=0.5, lam=0.5)
    assert got.advantages.tolist() == [[0.75, 0, -1]]
    assert got.returns.tolist() == [[2.75, 0, 3]]
    # Position by position: delta_0 = 1 - 2, A_1 = .5 * 4 + .25 * (-1) at the masked token, A_0 = -1 + .25 * 1.75.
    plain = gae(rewards, values, mask, gamma=0.5, lam=0.5, carry_over=False)
    assert plain.advantages.tolist() == [[-1 + 0.25 * 1.75, 0, -1]]


@pytest.mark.parametrize("carry_over", [True, False])
def test_gae_with_gamma_and_lambda_one_is_the_reward_to_go_minus_the_value(carry_over: bool) -> None:
    rewards, values, mask = tokens(3)
    A, returns = gae(rewards, values, mask, carry_over=carry_over)
    to_go = (rewards * mask).flip(1).cumsum(1).flip(1)
    torch.testing.assert_close(A, (to_go - values) * mask)
    torch.testing.assert_close(returns, to_go * mask)


def test_gae_with_lambda_zero_is_the_temporal_difference() -> None:
    rewards, values, mask = tokens(4)
    A, returns = gae(rewards, values, mask, gamma=0.9, lam=0.0)
    for b in range(3):
        at = mask[b].nonzero().flatten().tolist()
        for t, after in zip_longest(at, at[1:]):
            ahead = 0.0 if after is None else 0.9 * values[b, after]
            torch.testing.assert_close(A[b, t], rewards[b, t] + ahead - values[b, t])
    torch.testing.assert_close(returns, (A + values) * mask)
    assert (A[mask == 0] == 0).all()


def test_gae_looks_at_no_masked_token_and_skips_it() -> None:
    rewards, values, mask = tokens(5)
    A, returns = gae(rewards, values, mask, 0.9, 0.8)
    for poison in (math.nan, math.inf, 1e10):
        bad = (x.masked_fill(mask == 0, poison) for x in (rewards, values))
        again = gae(*bad, mask, 0.9, 0.8)
        assert torch.equal(again.advantages, A)
        assert torch.equal(again.returns, returns)
    kept = mask[2].nonzero().flatten()
    short = gae(rewards[2:, kept], values[2:, kept], torch.ones(1, len(kept)), 0.9, 0.8)
    torch.testing.assert_close(short.advantages[0], A[2, kept])
    full = torch.ones(3, 6)
    same = [gae(rewards, values, full, 0.9, 0.8, carry_over).advantages for carry_over in (True, False)]
    assert torch.equal(same[0], same[1])


@pytest.mark.parametrize("unbiased", [True, False])
def test_whitening(unbiased: bool) -> None:
    x, _, mask = tokens(6)
    w = whiten(x.masked_fill(mask == 0, math.nan), mask, unbiased)
    trained = w[mask != 0]
    torch.testing.assert_close(trained.mean(), torch.zeros((), dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(trained.var(correction=int(unbiased)).item(), 1.0, rtol=1e-6, atol=0)
    assert (w[mask == 0] == 0).all()
    torch.testing.assert_close(whiten(5 + 3 * x, mask, unbiased), w, rtol=1e-6, atol=0)
    assert whiten(torch.tensor([[3.0, 1.0]]), torch.tensor([[1, 0]]), unbiased).tolist() == [[0, 0]]
    assert whiten(x, torch.zeros(3, 6), unbiased).abs().sum() == 0


def test_reinforce_plus_plus_by_hand() -> None:
    """Rewards to go with gamma 1/2: (1 + 1, 2) and (4); mean 8/3, unbiased variance 4/3."""
    rewards = torch.tensor([[1.0, 2.0], [4.0, 9.0]], dtype=torch.float64)
    mask = torch.tensor([[1, 1], [1, 0]])
    A = reinforce_plus_plus_advantages(rewards, mask, gamma=0.5, eps=0.0)
    expected = torch.tensor([[-2.0, -2], [4, 0]]).double() / 3 / (4 / 3) ** 0.5
    torch.testing.assert_close(A, expected)
    biased = reinforce_plus_plus_advantages(rewards, mask, gamma=0.5, unbiased=False)
    torch.testing.assert_close(biased, A * (3 / 2) ** 0.5)
