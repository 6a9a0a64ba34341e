"""Length-adaptive GAE, the optimal token baseline and distillation advantages: by hand and against the oracles."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from loss_reference.policy_gradient.advantages import gae
from loss_reference.policy_gradient.token_advantages import opd_advantages, optimal_token_baseline, vapo_gae
from tests.oracles import advantage_estimators as oracles

GROUPS = torch.tensor([0, 1, 0, 0, 1, 7])


def tokens(seed: int) -> dict[str, Tensor]:
    """Return [6, 7] numbers and a mask with holes and an empty row."""
    g = torch.Generator().manual_seed(seed)
    shape = (6, 7)
    numbers = {name: torch.randn(shape, generator=g, dtype=torch.float64) for name in ("r", "v", "teacher")}
    mask = (torch.rand(shape, generator=g) < 0.7).double()
    mask[3] = 0
    lp = -torch.rand(shape, generator=g, dtype=torch.float64) - 0.1
    return numbers | {"mask": mask, "lp": lp, "squares": torch.rand(shape, generator=g, dtype=torch.float64)}


def test_vapo_adapts_lambda_to_the_length() -> None:
    x = tokens(1)
    got = vapo_gae(x["r"], x["v"], x["mask"], gamma=0.9, lam_value=0.95, alpha=0.5)
    for b in range(6):
        lam = max(0.0, 1 - 1 / max(0.5 * x["mask"][b].sum().item(), 1))
        row = (slice(b, b + 1), slice(None))
        torch.testing.assert_close(
            got.advantages[row], gae(x["r"][row], x["v"][row], x["mask"][row], 0.9, lam).advantages
        )
    torch.testing.assert_close(got.returns, gae(x["r"], x["v"], x["mask"], 0.9, 0.95).returns)


def test_vapo_with_one_lambda_is_gae_and_its_error() -> None:
    x = tokens(2)
    got, expected = (
        vapo_gae(x["r"], x["v"], x["mask"], 0.9, 0.8, lam_policy=0.8),
        gae(x["r"], x["v"], x["mask"], 0.9, 0.8),
    )
    assert torch.equal(got.advantages, expected.advantages)
    assert torch.equal(got.returns, expected.returns)
    with pytest.raises(ValueError, match="alpha=0; expected a number above 0"):
        vapo_gae(x["r"], x["v"], x["mask"], alpha=0)


def test_optimal_token_baseline_by_hand() -> None:
    """Norms 1 - 2 pi + sum pi^2: .5 and 1 in row 0, 1 and 1 in row 1; G = (3, 1) and (2, 2)."""
    rewards = torch.tensor([[2.0, 1.0], [0.0, 2.0]])
    lp = torch.tensor([[0.5, 0.25], [0.25, 0.25]]).log()
    squares = torch.tensor([[0.5, 0.5], [0.5, 0.5]])
    A, G = optimal_token_baseline(rewards, lp, squares, torch.ones(2, 2), torch.zeros(2), eps=0.0)
    assert G.tolist() == [[3, 1], [2, 2]]
    B = ((3 * 0.5 + 2 * 1) / 1.5, (1 * 1.5 + 2 * 2) / 3.5)
    torch.testing.assert_close(A, G - torch.tensor(B))
    weights = torch.tensor([[2.0, 1.0], [1.0, 1.0]])
    A, _ = optimal_token_baseline(rewards, lp, squares, torch.ones(2, 2), torch.zeros(2), weights, eps=0.0)
    B = ((3 * 2 + 2 * 1) / 3, (1 * 3 + 2 * 2) / 5)  # the norm of row 0 at 0 counts 2^2 times
    torch.testing.assert_close(A, G - torch.tensor(B))


def test_tails_and_singletons() -> None:
    rewards = torch.ones(3, 3, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 1, 1]])
    lp, squares, groups = torch.full((3, 3), -1.0), torch.full((3, 3), 0.3), torch.tensor([0, 0, 1])

    def A(**options: Any) -> list[list[float]]:
        return optimal_token_baseline(rewards, lp, squares, mask, groups, **options).advantages.tolist()

    assert [row[2] for row in A()] == [0, 0, 0]
    assert [row[2] for row in A(tail="reward")] == [1, 0, 0]
    assert A(singleton="reward")[2] == [3, 2, 1]
    assert A(singleton="reward")[:2] == A()[:2]


@pytest.mark.parametrize("align", ["position", "trained_token"])
def test_laws_of_the_optimal_token_baseline(align: Any) -> None:
    x = tokens(3)
    args = x["r"], x["lp"], x["squares"], x["mask"], GROUPS
    A, G = optimal_token_baseline(*args, align=align)
    poison = [y.masked_fill(x["mask"] == 0, math.nan) for y in args[:3]]
    again = optimal_token_baseline(*poison, *args[3:], align=align)
    assert torch.equal(again.advantages, A)
    assert torch.equal(again.returns, G)
    equal = optimal_token_baseline(*args[:4], torch.arange(6), align=align, singleton="reward")
    torch.testing.assert_close(equal.advantages, G)
    packed = [torch.cat([y[b][x["mask"][b] != 0], y[b][x["mask"][b] == 0]]) for y in args[:4] for b in range(6)]
    r, lp, squares, mask = torch.stack(packed).reshape(4, 6, 7)
    by_position = optimal_token_baseline(r, lp, squares, mask, GROUPS).advantages
    by_token = torch.stack([torch.cat([a[m != 0], a[m == 0]]) for a, m in zip(A, x["mask"], strict=True)])
    assert torch.allclose(by_token, by_position, rtol=1e-12, atol=1e-12) == (align == "trained_token")


def test_distillation_advantages() -> None:
    x = tokens(4)
    bad = x["teacher"].masked_fill(x["mask"] == 0, math.nan).requires_grad_()
    A = opd_advantages(bad, x["lp"], x["mask"])
    assert not A.requires_grad
    torch.testing.assert_close(A, (x["teacher"] - x["lp"]) * x["mask"])
    assert opd_advantages(x["lp"], x["lp"], x["mask"]).abs().sum() == 0
    with pytest.raises(ValueError, match="prev_logprobs has shape"):
        opd_advantages(x["teacher"], x["lp"][:, 1:], x["mask"])


@pytest.mark.parametrize("seed", range(5))
def test_against_oracles(seed: int) -> None:
    x = tokens(10 + seed)
    a = {name: y.numpy() for name, y in x.items()}

    def check(got: Tensor, expected: Any, atol: float = 1e-12) -> None:
        torch.testing.assert_close(got, torch.from_numpy(expected), rtol=1e-10, atol=atol)

    got = vapo_gae(x["r"], x["v"], x["mask"], 0.9, 0.8, alpha=0.6)
    expected = oracles.vapo_gae(a["r"], a["v"], a["mask"], gamma=0.9, value_lambda=0.8, alpha=0.6)
    check(got.advantages, expected[0])
    check(got.returns, expected[1])
    check(opd_advantages(x["teacher"], x["lp"], x["mask"]), oracles.opd_advantages(a["teacher"], a["lp"], a["mask"]))
    for align in ("position", "trained_token"):
        for weights in (None, x["v"].exp()):
            A = optimal_token_baseline(
                x["r"], x["lp"], x["squares"], x["mask"], GROUPS, weights, align=align, singleton="reward", eps=1e-12
            ).advantages
            oracle = oracles.optimal_token_baseline_advantages(
                a["r"], a["mask"], GROUPS.numpy(), a["lp"], a["squares"], weights=weights, align=align, epsilon=1e-12
            )
            check(A, oracle, atol=1e-9)  # eps / W of G at a tail, where the loss says 0


def test_errors() -> None:
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="align='end'; expected one of"):
        optimal_token_baseline(x, x, x, x, torch.zeros(2), align="end")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="tail='none'; expected one of"):
        optimal_token_baseline(x, x, x, x, torch.zeros(2), tail="none")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"weights has shape \(2,\); expected \(2, 3\)"):
        optimal_token_baseline(x, x, x, x, torch.zeros(2), torch.ones(2))


def test_the_optimal_baseline_balances_a_group_by_its_weights() -> None:
    """sum_j W_jt A_jt = 0 at every position that more than one answer reaches; a reward for all of them changes nothing."""
    x = tokens(5)
    mask, groups = torch.ones(6, 7), torch.tensor([0, 1, 0, 0, 1, 1])
    A, G = optimal_token_baseline(x["r"], x["lp"], x["squares"], mask, groups, eps=0.0)
    W = (1 - 2 * x["lp"].exp() + x["squares"]).cumsum(1)
    for group in (0, 1):
        balance = (W * A)[groups == group].sum(0)
        torch.testing.assert_close(balance, torch.zeros(7, dtype=torch.float64), rtol=0, atol=1e-12)
    easier = x["r"].clone()
    easier[:, 3] += 5.0
    moved, further = optimal_token_baseline(easier, x["lp"], x["squares"], mask, groups, eps=0.0)
    torch.testing.assert_close(moved, A, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(further[:, 3] - G[:, 3], torch.full((6,), 5.0, dtype=torch.float64))


def test_the_optimal_baseline_of_a_policy_without_doubt_divides_by_no_zero() -> None:
    """pi = 1 has no gradient: every W is 0, so is the baseline."""
    rewards = torch.randn(3, 4, generator=torch.Generator().manual_seed(6))
    sure = torch.zeros(3, 4), torch.ones(3, 4)
    A, G = optimal_token_baseline(rewards, *sure, torch.ones(3, 4), torch.zeros(3))
    assert torch.isfinite(A).all()
    assert torch.equal(A, G)
