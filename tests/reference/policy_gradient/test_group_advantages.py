"""GPG, pass@k, GDPO and batch-scaled advantages, and what an answer alone gets: by hand and against the oracles."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from loss_reference.policy_gradient import advantages, group_advantages
from loss_reference.policy_gradient.advantages import (
    dr_grpo_advantages,
    grpo_advantages,
    opo_advantages,
    rloo_advantages,
)
from loss_reference.policy_gradient.group_advantages import (
    batch_scaled_advantages,
    gdpo_advantages,
    gpg_advantages,
    grpo_passk_advantages,
)
from tests.oracles import advantage_estimators as oracles

R = torch.tensor([1.0, 0, 5, 3, 2, 7], dtype=torch.float64)
GROUPS = torch.tensor([4, 9, 4, 4, 9, 1])  # (1, 5, 3), (0, 2), (7)


def random_rewards(seed: int, columns: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    r = torch.randn((11, columns) if columns else (11,), generator=g, dtype=torch.float64)
    return r.round(decimals=1), torch.randint(4, (11,), generator=g)


def test_gpg_by_hand() -> None:
    """Five of six earned something: alpha = 6 / 5."""
    assert gpg_advantages(R, GROUPS).tolist() == pytest.approx([x * 1.2 for x in (-2, -1, 2, 0, 1, 0)])
    assert gpg_advantages(R, GROUPS, f_norm=0.5, singleton="reward")[5].item() == pytest.approx(7 * 2.4)
    assert gpg_advantages(torch.zeros(3), torch.zeros(3)).tolist() == [0, 0, 0]
    torch.testing.assert_close(gpg_advantages(4 * R, GROUPS), 4 * gpg_advantages(R, GROUPS))


def test_passk_credits_the_lead_of_the_best() -> None:
    expected = [0, 0, 2 / 2.5, 0, 2 / (2**0.5 + 0.5), 0]
    assert grpo_passk_advantages(R, GROUPS, eps=0.5).tolist() == pytest.approx(expected)
    assert grpo_passk_advantages(R, GROUPS, scale=False).tolist() == [0, 0, 2, 0, 2, 0]
    assert grpo_passk_advantages(torch.tensor([3.0, 3, 1]), torch.zeros(3)).tolist() == [0, 0, 0]  # two best
    assert grpo_passk_advantages(torch.tensor([3.0]), torch.zeros(1)).tolist() == [0]
    assert grpo_passk_advantages(torch.zeros(0), torch.zeros(0)).shape == (0,)
    torch.testing.assert_close(grpo_passk_advantages(R - 40, GROUPS), grpo_passk_advantages(R, GROUPS))


def test_gdpo_gives_every_reward_its_say() -> None:
    """Columns of scale 1 and 1000: each is (-1, 1) / sqrt 2 in its group; the sum is normalised over the batch."""
    r = torch.tensor([[0.0, 0], [1, 1000], [0, 1000], [1, 0]], dtype=torch.float64)
    groups = torch.tensor([0, 0, 1, 1])
    A = gdpo_advantages(r, groups, eps=0.0, batch_eps=0.0)
    assert A.tolist() == pytest.approx([-((3 / 2) ** 0.5), (3 / 2) ** 0.5, 0, 0])
    weighted = gdpo_advantages(r, groups, [1.0, 0.0], eps=0.0, batch_eps=0.0)
    assert weighted.tolist() == pytest.approx([-(0.75**0.5), 0.75**0.5, -(0.75**0.5), 0.75**0.5])
    assert A.mean().item() == pytest.approx(0, abs=1e-12)
    assert A.std().item() == pytest.approx(1)
    scaled = gdpo_advantages(r * torch.tensor([7.0, 0.1]) + 3, groups, eps=0.0, batch_eps=0.0)
    torch.testing.assert_close(scaled, A)
    assert gdpo_advantages(torch.ones(4, 2), groups).tolist() == [0, 0, 0, 0]
    one = gdpo_advantages(R[:, None], GROUPS, eps=0.0, batch_eps=0.0)
    whole = grpo_advantages(R, GROUPS, eps=0.0)
    torch.testing.assert_close(one, (whole - whole.mean()) / whole.std())


def test_gdpo_of_nemo_rl() -> None:
    """Leave one out in every column, no eps in the last division."""
    r, groups = random_rewards(1, columns=2)
    S = sum(grpo_advantages(x, groups, "leave_one_out", "leave_one_out") for x in r.T)
    assert isinstance(S, torch.Tensor)
    got = gdpo_advantages(r, groups, None, "leave_one_out", "leave_one_out", eps=1e-6, batch_eps=0.0)
    torch.testing.assert_close(got, (S - S.mean()) / S.std())


@pytest.mark.parametrize(("scale", "expected"), [("group", 7 / 1.5), ("none", 7.0)])
def test_an_answer_alone_keeps_its_reward_in_verl(scale: Any, expected: float) -> None:
    """verl takes mean 0 and std 1 for it, and adds eps to the std."""
    assert grpo_advantages(R, GROUPS, scale=scale, eps=0.5, singleton="reward")[5].item() == pytest.approx(expected)
    assert dr_grpo_advantages(R, GROUPS, "reward").tolist() == [-2, -1, 2, 0, 1, 7]
    assert rloo_advantages(R, GROUPS, "reward").tolist() == [-3, -2, 3, 0, 2, 7]
    assert opo_advantages(R, torch.ones(6), GROUPS, "reward").tolist() == [-2, -1, 2, 0, 1, 7]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("name", "mine", "theirs"),
    [
        ("grpo", {"eps": 1e-4}, {"epsilon": 1e-4}),
        ("rloo", {"singleton": "reward"}, {"singleton": "reward"}),
        ("rloo", {}, {}),
        ("dr_grpo", {}, {}),
        ("gpg", {"f_norm": 0.7}, {"f_norm": 0.7}),
        ("grpo_passk", {"eps": 0.1}, {"epsilon": 0.1}),
        ("batch_scaled", {}, {}),
        ("gdpo", {}, {}),
        ("gdpo", {"weights": [0.5, -1.0]}, {"weights": [0.5, -1.0]}),
    ],
)
def test_against_oracles(name: str, mine: dict[str, Any], theirs: dict[str, Any], seed: int) -> None:
    r, groups = random_rewards(seed, columns=2 if name == "gdpo" else 0)
    estimator = getattr(advantages, f"{name}_advantages", None) or getattr(group_advantages, f"{name}_advantages")
    expected = getattr(oracles, f"{name}_advantages")(r.numpy(), groups.numpy(), **theirs)
    torch.testing.assert_close(estimator(r, groups, **mine), torch.from_numpy(expected), rtol=1e-10, atol=1e-12)


def test_nemo_rl_against_its_oracle() -> None:
    for seed in range(5):
        r, groups = random_rewards(seed)
        expected = oracles.grpo_leave_one_out_advantages(r.numpy(), groups.numpy())
        got = grpo_advantages(r, groups, "leave_one_out", "leave_one_out")
        torch.testing.assert_close(got, torch.from_numpy(expected), rtol=1e-10, atol=1e-12)


def test_batch_scale_is_the_option_of_grpo() -> None:
    assert torch.equal(batch_scaled_advantages(R, GROUPS), grpo_advantages(R, GROUPS, scale="batch", eps=1e-4))


def test_errors() -> None:
    with pytest.raises(ValueError, match="weights has 3 numbers for 2 kinds of reward"):
        gdpo_advantages(torch.ones(4, 2), torch.zeros(4), [1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match=r"rewards has shape \(6,\); expected \(B, N\)"):
        gdpo_advantages(R, GROUPS)
    with pytest.raises(ValueError, match=r"groups has shape \(3,\); expected \(6,\)"):
        grpo_passk_advantages(R, torch.zeros(3))
    for estimator in (dr_grpo_advantages, rloo_advantages, gpg_advantages):
        with pytest.raises(ValueError, match="singleton='nothing'; expected one of"):
            estimator(R, GROUPS, singleton="nothing")  # type: ignore[arg-type]
