"""Bradley-Terry: -log sigma(r_w - r_l)."""

from __future__ import annotations

import math

import pytest
import torch

from loss_reference import BradleyTerryLoss, DPOLoss
from tests.reference.cases import value_and_gradient


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def bt(rewards: list[float], **batch: torch.Tensor) -> tuple[float, torch.Tensor]:
    value, gradient = value_and_gradient(
        BradleyTerryLoss(), batch, {"rewards": torch.tensor(rewards, dtype=torch.float64)}, "rewards"
    )
    return value.item(), gradient


def test_by_hand() -> None:
    value, gradient = bt([2.0, 1.0, 0.0, 3.0])
    assert value == pytest.approx((softplus(-1) + softplus(3)) / 2)
    sigma = 1 / (1 + math.exp(1)), 1 / (1 + math.exp(-3))
    assert gradient.tolist() == pytest.approx([-sigma[0] / 2, sigma[0] / 2, -sigma[1] / 2, sigma[1] / 2])


def test_equal_rewards_give_log_2() -> None:
    assert bt([4.0, 4.0])[0] == pytest.approx(math.log(2))


def test_a_common_shift_changes_nothing_and_a_swap_adds_the_gap() -> None:
    assert bt([7.0, 5.5])[0] == pytest.approx(bt([1.5, 0.0])[0])
    assert bt([1.5, 0.0])[0] - bt([0.0, 1.5])[0] == pytest.approx(-1.5)


def test_pairs_weigh_the_smaller_row_and_the_count_is_of_rows() -> None:
    mask = torch.tensor([1.0, 0.5, 0.0, 1.0, 2.0, 3.0])
    value, gradient = bt([2.0, 1.0, 0.0, 3.0, 0.0, 0.0], sample_mask=mask)
    assert value == pytest.approx((0.5 * softplus(-1) + 2 * math.log(2)) / 2.5)
    assert gradient[2:4].tolist() == [0, 0]
    value, _ = bt([2.0, 1.0], global_valid_seqs=torch.tensor(8.0))
    assert value == pytest.approx(softplus(-1) / 4)


@pytest.mark.parametrize("content", [math.nan, math.inf, -math.inf])
def test_a_half_absent_pair_is_absent(content: float) -> None:
    value, gradient = bt([2.0, 1.0, content, content], sample_mask=torch.tensor([1.0, 1, 0, 1]))
    assert value == pytest.approx(softplus(-1))
    assert gradient[2:].tolist() == [0, 0]


def test_extreme_gaps_are_linear() -> None:
    value, gradient = value_and_gradient(BradleyTerryLoss(), {}, {"rewards": torch.tensor([-1e4, 1e4])}, "rewards")
    assert value.item() == 2e4
    assert gradient.tolist() == [-1, 1]
    value, gradient = value_and_gradient(BradleyTerryLoss(), {}, {"rewards": torch.tensor([1e4, -1e4])}, "rewards")
    assert value.item() == 0
    assert gradient.tolist() == [0, 0]


def test_is_dpo_with_the_implicit_reward() -> None:
    lp = torch.tensor([[-1.0], [-2.5], [-0.3], [-0.1]])
    batch = {"token_mask": torch.ones(4, 2), "reference_policy_logprobs": torch.zeros(4, 2)}
    dpo = DPOLoss({"beta": 0.3}).compute_loss(batch, {"next_token_logprobs": lp})
    torch.testing.assert_close(dpo, BradleyTerryLoss().compute_loss({}, {"rewards": 0.3 * lp[:, 0]}))


def test_odd_rows_are_refused() -> None:
    with pytest.raises(ValueError, match=r"rewards has 3 rows; pairs are interleaved"):
        bt([1.0, 2.0, 3.0])
