"""GAE, whitening and the baselines of whole answers beside plain loops written from the same formulas."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from loss_reference.policy_gradient.advantages import (
    dr_grpo_advantages,
    gae,
    opo_advantages,
    reinforce_plus_plus_advantages,
    remax_advantages,
    whiten,
)
from tests.oracles import advantage_estimators as oracles


def episode(seed: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return random numbers, and the same as arrays; the mask has holes, and row 3 no trained token."""
    g = torch.Generator().manual_seed(seed)
    x = {name: torch.randn(5, 7, generator=g, dtype=torch.float64) for name in ("r", "v")}
    x["mask"] = (torch.rand(5, 7, generator=g) < 0.7).double()
    x["mask"][3] = 0
    x["row"], x["greedy"] = torch.randn(2, 5, generator=g, dtype=torch.float64)
    x["groups"], x["lengths"] = torch.tensor([0, 1, 0, 1, 0]), x["mask"].sum(dim=1)
    return x, {name: tensor.numpy() for name, tensor in x.items()}


def close(got: Tensor, expected: Any) -> None:
    torch.testing.assert_close(got, torch.from_numpy(expected), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("carry", [True, False])
@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 1.0), (0.9, 0.7), (0.5, 0.0)])
def test_gae(gamma: float, lam: float, carry: bool, seed: int) -> None:
    x, a = episode(seed)
    got = gae(x["r"], x["v"], x["mask"], gamma, lam, carry)
    expected = oracles.gae(a["r"], a["v"], a["mask"], gamma=gamma, lambda_=lam, carry=carry)
    close(got.advantages, expected[0])
    close(got.returns, expected[1])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("biased", [True, False])
def test_whitened_returns(biased: bool, seed: int) -> None:
    x, a = episode(seed)
    close(whiten(x["v"], x["mask"], not biased), oracles.whitened(a["v"], a["mask"], biased=biased))
    got = reinforce_plus_plus_advantages(x["r"], x["mask"], 0.9, not biased)
    close(got, oracles.reinforce_plus_plus_advantages(a["r"], a["mask"], gamma=0.9, biased=biased))
    # The variant with a baseline: the group's mean is taken from the rewards first.
    centred = dr_grpo_advantages(x["row"], x["groups"])[:, None] * x["mask"]
    expected = oracles.reinforce_plus_plus_baseline_advantages(a["row"], a["groups"], a["mask"], biased=biased)
    close(whiten(centred, x["mask"], not biased), expected)


@pytest.mark.parametrize("seed", range(4))
def test_baselines_of_whole_answers(seed: int) -> None:
    x, a = episode(seed)
    close(
        opo_advantages(x["row"], x["lengths"], x["groups"]), oracles.opo_advantages(a["row"], a["lengths"], a["groups"])
    )
    A = remax_advantages(x["row"], x["greedy"])[:, None] * x["mask"]
    # The reward at the last trained token is the reward to go of every one before it.
    last = torch.zeros(5, 7, dtype=torch.float64)
    for b in range(5):
        trained = x["mask"][b].nonzero().flatten()
        last[b, trained[-1:]] = x["row"][b]
    close(A, oracles.remax_advantages(last.numpy(), a["mask"], a["greedy"]))
