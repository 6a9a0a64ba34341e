"""Dual clip, DAPO, Dr. GRPO and BNPO: where they are PPO, and where they are not."""

from __future__ import annotations

import pytest
import torch

from loss_reference import BNPOLoss, ConfigError, DAPOLoss, DrGRPOLoss, GRPOLoss, PPOClipLoss, PPODualClipLoss
from tests.reference.cases import case, rows_of, value_and_gradient

FIELD = "next_token_logprobs"


def one_row(rhos: list[float], advantages: list[float]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return one row of tokens with these ratios and advantages."""
    lp = torch.full((1, len(rhos)), -0.5, dtype=torch.float64)
    rho = torch.tensor([[1.0, *rhos]], dtype=torch.float64)
    batch = {
        "token_mask": torch.ones(1, len(rhos) + 1),
        "prev_logprobs": -0.5 - rho.log(),
        "advantages": torch.tensor([[0.0, *advantages]], dtype=torch.float64),
    }
    return batch, {FIELD: lp}


@pytest.mark.parametrize(
    ("rho", "advantage", "value", "gradient"),
    [(2.0, -1.0, 2.0, 2.0), (4.0, -1.0, 3.0, 0.0), (4.0, 1.0, -1.2, 0.0), (0.5, -2.0, 1.6, 0.0)],
)
def test_dual_clip_by_hand(rho: float, advantage: float, value: float, gradient: float) -> None:
    got, got_gradient = value_and_gradient(PPODualClipLoss(), *one_row([rho], [advantage]), FIELD)
    assert (got.item(), got_gradient.item()) == pytest.approx((value, gradient))


def test_dual_clip_differs_from_ppo_only_beyond_c() -> None:
    batch, outputs = case(1, rows=6, width=8)
    batch["advantages"] = -batch["advantages"].abs()
    rho = (outputs[FIELD] - batch["prev_logprobs"][:, 1:]).exp()
    beyond = (batch["advantages"][:, 1:] < 0) & (rho > 3)
    weight = batch["token_mask"][:, 1:] * batch["sample_mask"][:, None]
    assert (beyond & (weight != 0)).any()
    kept = batch | {"token_mask": torch.cat([weight[:, :1] * 0, weight.masked_fill(beyond, 0)], dim=1)}
    for config in ({}, {"aggregation": "seq_mean_token_mean"}):
        same, other = (cls(config).compute_loss(kept, outputs) for cls in (PPODualClipLoss, PPOClipLoss))
        assert torch.equal(same, other)
    assert PPODualClipLoss().compute_loss(batch, outputs) < PPOClipLoss().compute_loss(batch, outputs)
    unreached = PPODualClipLoss({"ratio_clip_c": 1e9}).compute_loss(batch, outputs)
    assert torch.equal(unreached, PPOClipLoss().compute_loss(batch, outputs))


def test_dapo_clips_higher() -> None:
    batch, outputs = one_row([1.25, 1.5, 0.5], [1.0, 1.0, -1.0])
    value, gradient = value_and_gradient(DAPOLoss(), batch, outputs, FIELD)
    assert value.item() == pytest.approx((-1.25 - 1.28 + 0.8) / 3)
    torch.testing.assert_close(gradient, torch.tensor([[-1.25, 0, 0]]).double() / 3)
    batch, outputs = case(2, sample_mask="floats", counts=True)
    expected = PPOClipLoss({"ratio_clip_max": 0.28}).compute_loss(batch, outputs)
    assert torch.equal(DAPOLoss().compute_loss(batch, outputs), expected)


def test_dr_grpo_divides_by_the_same_number_whatever_the_length() -> None:
    batch, outputs = one_row([1.0, 1.0, 0.5], [2.0, 1.0, 1.0])
    assert DrGRPOLoss({"max_length": 10}).compute_loss(batch, outputs).item() == pytest.approx(-3.5 / 10)
    short = batch | {"token_mask": torch.tensor([[1.0, 1, 0, 0]])}
    assert DrGRPOLoss({"max_length": 10}).compute_loss(short, outputs).item() == pytest.approx(-2 / 10)


@pytest.mark.parametrize("counts", [False, True])
def test_dr_grpo_is_ppo_with_a_fixed_divisor(counts: bool) -> None:
    batch, outputs = case(3, sample_mask="floats", counts=counts)
    expected = value_and_gradient(PPOClipLoss({"aggregation": "fixed", "max_length": 8}), batch, outputs, FIELD)
    got = value_and_gradient(DrGRPOLoss({"max_length": 8}), batch, outputs, FIELD)
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1], expected[1])


def test_bnpo_divides_by_its_own_tokens_whatever_the_global_count() -> None:
    batch, outputs = case(4, sample_mask="floats", counts=True)
    local = {k: x for k, x in batch.items() if "global" not in k}
    expected = value_and_gradient(PPOClipLoss(), local, outputs, FIELD)
    got = value_and_gradient(BNPOLoss(), batch, outputs, FIELD)
    torch.testing.assert_close(got[0], expected[0])
    torch.testing.assert_close(got[1], expected[1])


def test_bnpo_of_one_row_is_grpo_without_penalty() -> None:
    batch, outputs = case(5, sample_mask=None)
    batch, outputs = rows_of(batch, 1, 2), rows_of(outputs, 1, 2)
    expected = GRPOLoss({"reference_policy_kl_penalty": 0}).compute_loss(batch, outputs)
    torch.testing.assert_close(BNPOLoss().compute_loss(batch, outputs), expected)


@pytest.mark.parametrize(
    ("cls", "config", "message"),
    [
        (DrGRPOLoss, None, "DrGRPOLoss needs max_length, the number it divides by"),
        (DrGRPOLoss, {"max_length": 0}, "DrGRPOLoss: max_length=0 is out of range; expected a number above 0"),
        (
            PPODualClipLoss,
            {"ratio_clip_c": 1.0},
            "PPODualClipLoss: ratio_clip_c=1.0 is out of range; expected a number ab",
        ),
        (
            PPODualClipLoss,
            {"ratio_clip_c": None},
            "PPODualClipLoss: ratio_clip_c=None; expected a finite number, above 1",
        ),
        (DAPOLoss, {"ratio_clip_max": -1}, "DAPOLoss: ratio_clip_max=-1 is out of range; expected a number at least 0"),
        (
            BNPOLoss,
            {"aggregation": "token_mean"},
            "BNPOLoss: unknown config key 'aggregation'; expected ratio_clip_min",
        ),
    ],
)
def test_config_errors(cls: type, config: dict[str, object] | None, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        cls(config)
    assert str(error.value).startswith(message)
