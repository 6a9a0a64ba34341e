"""Advantage estimators where nothing is left to prefer, and what shifts and scales of the rewards do to each of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

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
from loss_reference.policy_gradient.group_advantages import (
    batch_scaled_advantages,
    gdpo_advantages,
    gpg_advantages,
    grpo_passk_advantages,
)

Estimator = Callable[[Tensor, Tensor], Tensor]
G = torch.Generator().manual_seed(11)
GROUPS = torch.tensor([0, 1, 0, 0, 1, 7, 1, 0])
LENGTHS = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6])
R = torch.randn(8, generator=G, dtype=torch.float64)


def opo(r: Tensor, groups: Tensor) -> Tensor:
    return opo_advantages(r, LENGTHS, groups)


def gdpo(r: Tensor, groups: Tensor) -> Tensor:
    return gdpo_advantages(torch.stack([r, r.square()], dim=1), groups)


IN_GROUPS: dict[str, Estimator] = {
    "grpo": grpo_advantages,
    "nemo_rl": partial(grpo_advantages, baseline="leave_one_out", scale="leave_one_out"),
    "dr_grpo": dr_grpo_advantages,
    "batch_scaled": batch_scaled_advantages,
    "rloo": rloo_advantages,
    "opo": opo,
    "gpg": gpg_advantages,
    "passk": grpo_passk_advantages,
    "gdpo": gdpo,
}
# Of any number of answers.
SAME_LENGTHS: dict[str, Estimator] = {"opo": lambda r, groups: opo_advantages(r, 1 + torch.arange(len(r)) % 5, groups)}
# gpg counts the rewards that are 0, and the second reward of gdpo here is a square: neither is blind to a shift.
SHIFT = sorted(set(IN_GROUPS) - {"gpg", "gdpo"})
CENTRED = ("grpo", "dr_grpo", "batch_scaled", "rloo", "gpg")
LINEAR = ("dr_grpo", "rloo", "opo", "gpg")
NORMALISED = ("grpo", "nemo_rl", "batch_scaled", "passk")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("level", [0.0, 1.0, -3.0, 0.1, 0.7, 333.3, -123.4])
@pytest.mark.parametrize("name", IN_GROUPS)
def test_equal_rewards_and_an_answer_alone_prefer_nothing(name: str, level: float, dtype: torch.dtype) -> None:
    """Also where no float is the mean of equal floats: of seven of 333.3 it is rounded, and so would their std be."""
    for size in (2, 3, 7, 11):
        equal = torch.full((size,), level, dtype=dtype)
        together = SAME_LENGTHS[name] if name in SAME_LENGTHS else IN_GROUPS[name]
        assert torch.equal(together(equal, torch.zeros(size)), torch.zeros_like(equal))
    alone = IN_GROUPS[name](R.to(dtype), torch.arange(8))
    assert torch.equal(alone, torch.zeros(8, dtype=dtype))


def test_others_that_are_all_equal_divide_nothing() -> None:
    """Leave one out: the std of seven rewards of 0.7 is 0, not the rounding of their mean."""
    r = torch.tensor([0.7] * 7 + [0.1])
    A = grpo_advantages(r, torch.zeros(8), "leave_one_out", "leave_one_out")
    assert A[7].item() == pytest.approx(-0.6, rel=1e-6)
    assert A[:7].tolist() == pytest.approx([0.6 / 7 / (0.6 / 7**0.5 + 1e-6)] * 7, rel=1e-5)  # std of (.7 six times, .1)


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("level", [0.1, 333.3, -123.4, 1e6])
def test_whitening_does_not_blow_up_the_rounding_of_a_mean(level: float, unbiased: bool) -> None:
    x, mask = torch.full((3, 37), level), torch.ones(3, 37)
    assert whiten(x, mask, unbiased).abs().max() < 1e-3
    assert reinforce_plus_plus_advantages(x * (torch.arange(37) == 36), mask, unbiased=unbiased).abs().max() < 1e-3


@pytest.mark.parametrize("name", CENTRED)
def test_what_a_group_gains_it_loses(name: str) -> None:
    A = IN_GROUPS[name](R, GROUPS)
    sums = torch.zeros(8, dtype=torch.float64).index_add(0, GROUPS, A)
    torch.testing.assert_close(sums, torch.zeros_like(sums), rtol=0, atol=1e-13)
    assert A.abs().max() > 0.1


@pytest.mark.parametrize("name", SHIFT)
def test_a_reward_for_everything_changes_nothing(name: str) -> None:
    torch.testing.assert_close(IN_GROUPS[name](R + 5, GROUPS), IN_GROUPS[name](R, GROUPS), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", [*LINEAR, *NORMALISED])
def test_the_scale_of_the_rewards(name: str) -> None:
    """It is that of an advantage that nothing divides, and disappears, up to eps, where a std does."""
    A, scaled = IN_GROUPS[name](R, GROUPS), IN_GROUPS[name](1e3 * R, GROUPS)
    if name in LINEAR:
        torch.testing.assert_close(scaled, 1e3 * A)
    else:
        smallest = 0.1  # no std of these groups is below it, so eps = 1e-4 moves nothing by more than 1e-3
        torch.testing.assert_close(scaled, A, rtol=1e-4 / smallest, atol=0)


def test_remax_has_the_greedy_answer_for_zero() -> None:
    greedy = torch.linspace(-1, 1, 8, dtype=torch.float64)
    assert torch.equal(remax_advantages(greedy, greedy), torch.zeros_like(greedy))
    torch.testing.assert_close(remax_advantages(R + 2, greedy + 2), remax_advantages(R, greedy))


@pytest.mark.parametrize("carry_over", [True, False])
@pytest.mark.parametrize("gamma", [1.0, 0.5, 0.0])
def test_gae_without_a_critic_is_the_discounted_reward_to_go(gamma: float, carry_over: bool) -> None:
    rewards = torch.randn(3, 6, generator=G, dtype=torch.float64)
    got = gae(rewards, torch.zeros_like(rewards), torch.ones(3, 6), gamma, 1.0, carry_over)
    powers = gamma ** (torch.arange(6)[None, :] - torch.arange(6)[:, None]).clamp(min=0).double()
    to_go = rewards @ powers.triu().T
    torch.testing.assert_close(got.advantages, to_go)
    torch.testing.assert_close(got.returns, to_go)


def test_a_critic_that_is_right_leaves_no_advantage() -> None:
    """V_t = r_t + gamma V_{t+1}: every delta is 0, for any lambda, and the returns are V."""
    rewards = torch.randn(3, 6, generator=G, dtype=torch.float64)
    V = gae(rewards, torch.zeros_like(rewards), torch.ones(3, 6), 0.9).returns
    for lam in (0.0, 0.7, 1.0):
        A, returns = gae(rewards, V, torch.ones(3, 6), 0.9, lam)
        torch.testing.assert_close(A, torch.zeros_like(A), rtol=0, atol=1e-14)
        torch.testing.assert_close(returns, V)


def test_reinforce_plus_plus_is_blind_to_scale_and_its_baseline_variant_to_a_shift_of_a_group() -> None:
    """The variant whitens answers from whose rewards the mean of their group is taken; one reward, at the last token."""
    mask = torch.ones(8, 5, dtype=torch.float64)

    def at_the_end(r: Tensor) -> Tensor:
        return torch.cat([torch.zeros(8, 4, dtype=torch.float64), r[:, None]], dim=1)

    A = reinforce_plus_plus_advantages(at_the_end(R), mask)
    torch.testing.assert_close(A, ((R - R.mean()) / R.repeat_interleave(5).std())[:, None].expand(8, 5))
    torch.testing.assert_close(reinforce_plus_plus_advantages(at_the_end(1e3 * R), mask), A)
    easier = R + torch.tensor([0.0, 4.0])[(GROUPS == 1).long()]
    variant = [reinforce_plus_plus_advantages(at_the_end(dr_grpo_advantages(r, GROUPS)), mask) for r in (R, easier)]
    torch.testing.assert_close(variant[1], variant[0])
    moved = reinforce_plus_plus_advantages(at_the_end(easier), mask)
    assert not torch.allclose(moved, A, atol=0.1)
