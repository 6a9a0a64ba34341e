"""Advantages of rewards, values and log-probabilities in half precision: computed, and returned, in float32."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from loss_reference.policy_gradient.a2po import a2po_value
from loss_reference.policy_gradient.advantages import (
    gae,
    grpo_advantages,
    opo_advantages,
    reinforce_plus_plus_advantages,
    remax_advantages,
    rloo_advantages,
    whiten,
)
from loss_reference.policy_gradient.group_advantages import gdpo_advantages, gpg_advantages, grpo_passk_advantages
from loss_reference.policy_gradient.kl_control import kl_in_reward
from loss_reference.policy_gradient.token_advantages import opd_advantages, optimal_token_baseline, vapo_gae

B, S = 9, 40
G = torch.Generator().manual_seed(21)
GROUPS = torch.arange(B) // 3
MASK = (torch.rand(B, S, generator=G) < 0.8).float()
LENGTHS = MASK.sum(dim=1)
X, Y, Z = torch.randn(3, B, S, generator=G)
LP = -Z.abs() - 0.1

Estimator = Callable[[Tensor, Tensor, Tensor], Tensor]
# Of r_t, V_t and a log-probability, all [B, S] and of one dtype; the first column stands for rewards of answers.
ESTIMATORS: dict[str, Estimator] = {
    "grpo": lambda x, y, lp: grpo_advantages(x[:, 0], GROUPS),
    "nemo_rl": lambda x, y, lp: grpo_advantages(x[:, 0], GROUPS, "leave_one_out", "leave_one_out"),
    "rloo": lambda x, y, lp: rloo_advantages(x[:, 0], GROUPS),
    "opo": lambda x, y, lp: opo_advantages(x[:, 0], LENGTHS, GROUPS),
    "remax": lambda x, y, lp: remax_advantages(x[:, 0], y[:, 0]),
    "gpg": lambda x, y, lp: gpg_advantages(x[:, 0], GROUPS),
    "passk": lambda x, y, lp: grpo_passk_advantages(x[:, 0], GROUPS),
    "gdpo": lambda x, y, lp: gdpo_advantages(x[:, :2], GROUPS),
    "gae": lambda x, y, lp: gae(x, y, MASK, 0.99, 0.95).advantages,
    "vapo": lambda x, y, lp: vapo_gae(x, y, MASK).advantages,
    "whiten": lambda x, y, lp: whiten(x, MASK),
    "reinforce_plus_plus": lambda x, y, lp: reinforce_plus_plus_advantages(x, MASK),
    "optimal_token_baseline": lambda x, y, lp: optimal_token_baseline(x, lp, y.abs(), MASK, GROUPS, y).advantages,
    "opd": lambda x, y, lp: opd_advantages(y, lp, MASK),
    "kl_in_reward": lambda x, y, lp: kl_in_reward(x, lp, y, 0.1, "k3"),
    "a2po_value": lambda x, y, lp: a2po_value(x),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_widened_before_anything_else(name: str, dtype: torch.dtype) -> None:
    narrow = X.to(dtype), Y.to(dtype), LP.to(dtype)
    got, expected = ESTIMATORS[name](*narrow), ESTIMATORS[name](*(x.float() for x in narrow))
    assert got.dtype == torch.float32
    assert torch.equal(got, expected)


def test_long_answers_in_bfloat16() -> None:
    """600 rewards of 1: their sum in bfloat16 stops at 256, where one more is less than half a step."""
    ones = torch.ones(1, 600, dtype=torch.bfloat16)
    returns = gae(ones, torch.zeros_like(ones), torch.ones(1, 600)).returns
    assert returns[0].tolist() == list(range(600, 0, -1))
