"""Where libraries differ on the same inputs: the option that gives each one's number, against its formula written out."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from loss_reference import (
    BNPOLoss,
    CISPOLoss,
    ConfigError,
    DrGRPOLoss,
    GRPOLoss,
    GSPOLoss,
    GSPOTokenLoss,
    LUSPOLoss,
    PPOClipLoss,
    PPODualClipLoss,
    SAPOLoss,
    registry,
)
from tests.reference.cases import Tensors, value_and_gradient
from tests.reference.policy_gradient.further import FIELD, further_case
from tests.reference.policy_gradient.test_ppo_variants import one_row


def parts(batch: Tensors, outputs: Tensors) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (lp with gradient, lp_old, A, m) of next tokens."""
    m = batch["token_mask"][:, 1:] * batch["sample_mask"][:, None]
    return outputs[FIELD].clone().requires_grad_(), batch["prev_logprobs"][:, 1:], batch["advantages"][:, 1:], m


def assert_is(loss: Any, expected: Tensor, lp: Tensor, batch: Tensors, outputs: Tensors) -> None:
    value, gradient = value_and_gradient(loss, batch, outputs, FIELD)
    torch.testing.assert_close(value, expected.detach(), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(
        gradient, torch.autograd.grad(expected, lp, retain_graph=True)[0], rtol=1e-12, atol=1e-14
    )


def spread(seed: int) -> tuple[Tensors, Tensors]:
    """Return a case with log-ratios up to 40 nats either way, and a reference as far off."""
    batch, outputs = further_case(seed, rows=6, width=9, sample_mask="zeros", counts=True)
    for field in ("prev_logprobs", "reference_policy_logprobs"):
        batch[field][:, 1:] = outputs[FIELD] + 40 * (batch[field][:, 1:] - outputs[FIELD])
    return batch, outputs


def test_ppo_of_verl_clamps_the_log_ratio_and_always_bounds_negative_advantages() -> None:
    batch, outputs = spread(1)
    lp, old, A, m = parts(batch, outputs)
    rho = (lp - old).clamp(-20, 20).exp()
    assert ((lp - old).abs() > 20)[m != 0].any()
    term = torch.maximum(-A * rho, -A * rho.clamp(0.8, 1.2))
    term = torch.where(A < 0, torch.minimum(-3.0 * A, term), term)
    expected = (m * term).sum() / batch["global_valid_toks"]
    assert_is(PPOClipLoss({"log_ratio_clamp": 20, "ratio_clip_c": 3}), expected, lp, batch, outputs)
    of_openrlhf = torch.maximum(-A * rho, -A * rho.clamp(0.8, 1.2))
    expected = (m * of_openrlhf).sum() / batch["global_valid_toks"]
    assert_is(PPOClipLoss({"log_ratio_clamp": 20}), expected, lp, batch, outputs)


@pytest.mark.parametrize("cls", [CISPOLoss, SAPOLoss])
def test_cispo_and_sapo_of_verl_clamp_the_log_ratio(cls: type[CISPOLoss] | type[SAPOLoss]) -> None:
    batch, outputs = further_case(2, counts=True)
    lp, old, A, m = parts(batch, outputs)
    rho = (lp - old).clamp(-0.1, 0.1).exp()
    if cls is CISPOLoss:
        expected = (m * -rho.detach() * A * lp).sum() / batch["global_valid_toks"]
    else:
        tau = torch.where(A > 0, 1.0, torch.tensor(1.05, dtype=torch.float64))
        rows = (m * -A * 4 / tau * torch.sigmoid(tau * (rho - 1))).sum(dim=1) / m.sum(dim=1).clamp(min=1)
        expected = rows.sum() / batch["global_valid_seqs"]
    assert_is(cls({"log_ratio_clamp": 0.1}), expected, lp, batch, outputs)


def test_grpo_of_nemo_rl() -> None:
    """The KL term is weighted by exp(lp - sg lp), which loses its gradient where d is clamped, and then clamped itself."""
    batch, outputs = spread(3)
    lp, old, A, m = parts(batch, outputs)
    policy = torch.maximum(-A * (lp - old).exp(), -A * (lp - old).exp().clamp(0.8, 1.2))
    d = lp - batch["reference_policy_logprobs"][:, 1:]
    weight = (lp - lp.detach()).exp()
    weight = torch.where(d.abs() <= 20, weight, weight.detach())
    d = d.clamp(-20, 20)
    k = (weight * ((-d).exp() - 1 + d)).clamp(-10, 10)
    config = {
        "aggregation": "token_mean",
        "reference_policy_kl_penalty": 0.01,
        "kl_gradient": "score_function",
        "kl_input_clamp": 20,
        "kl_output_clamp": 10,
    }
    expected = (m * (policy + 0.01 * k)).sum() / batch["global_valid_toks"]
    assert_is(GRPOLoss(config), expected, lp, batch, outputs)


@pytest.mark.parametrize(
    ("rho", "advantage", "value", "gradient"),
    [
        (1.05, 1.0, -1.05, -1.05),
        (1.15, 1.0, -1.1, 0.0),
        (2.0, 1.0, -1.1, 0.0),
        (2.0, -1.0, 1.2, 0.0),
        (0.5, -1.0, 0.8, 0),
    ],
)
def test_delta_of_trl_bounds_the_ratio_itself(rho: float, advantage: float, value: float, gradient: float) -> None:
    """delta = 1.1 < 1 + e_h: positive advantages are cut off there, negative ones at the clip."""
    loss = PPODualClipLoss({"ratio_clip_c": 1.1, "clip_c_bounds": "ratio"})
    got, got_gradient = value_and_gradient(loss, *one_row([rho], [advantage]), FIELD)
    assert (got.item(), got_gradient.item()) == pytest.approx((value, gradient))


def test_delta_of_trl_is_dual_clip_beyond_the_clip() -> None:
    batch, outputs = further_case(4, rows=6, width=9)
    got, expected = (
        value_and_gradient(PPODualClipLoss({"ratio_clip_c": 1.25, **config}), batch, outputs, FIELD)
        for config in ({"clip_c_bounds": "ratio"}, {})
    )
    torch.testing.assert_close(got[0], expected[0])
    torch.testing.assert_close(got[1], expected[1])


@pytest.mark.parametrize("length", [0.5, 8.0])
def test_dr_grpo_by_length_alone_is_a_sum(length: float) -> None:
    batch, outputs = further_case(5, counts=True, sample_mask="floats")
    by_length, usual = (DrGRPOLoss({"max_length": length, **c}) for c in ({"divisor": "length"}, {}))
    assert (by_length.contract.normalizer, usual.contract.normalizer) == ("sum", "global")
    got, expected = (value_and_gradient(loss, batch, outputs, FIELD) for loss in (by_length, usual))
    torch.testing.assert_close(got[0], expected[0] * batch["global_valid_seqs"])
    torch.testing.assert_close(got[1], expected[1] * batch["global_valid_seqs"])
    with pytest.raises(ConfigError, match="divisor='tokens'; expected one of 'sequences_times_length', 'length'"):
        DrGRPOLoss({"max_length": 8, "divisor": "tokens"})


def test_gspo_of_verl_clamps_the_mean_log_ratio_above() -> None:
    batch, outputs = further_case(6)
    batch["prev_logprobs"][1] -= 12
    batch["advantages"] = -batch["advantages"].abs()
    bounded, open_ = (GSPOTokenLoss(config) for config in ({"log_ratio_max": 10}, {}))
    _, gradient = value_and_gradient(bounded, batch, outputs, FIELD)
    _, expected = value_and_gradient(open_, batch, outputs, FIELD)
    assert gradient[1].abs().sum() == 0  # beyond it
    assert expected[1].abs().sum() > 0
    torch.testing.assert_close(gradient[3], expected[3])
    lp, old, A, m = parts(batch, outputs)
    mean = (m * (lp - old)).sum(dim=1, keepdim=True) / m.sum(dim=1, keepdim=True).clamp(min=1)
    rows = (m * -A * mean.clamp(max=10).exp()).sum(dim=1) / m.sum(dim=1).clamp(min=1)  # ratios above 1: never clipped
    wide = {"ratio_clip_min": 1.0, "ratio_clip_max": 1e9, "log_ratio_max": 10}
    assert_is(GSPOLoss(wide), rows.sum() / batch["sample_mask"].sum(), lp, batch, outputs)


def test_sequence_ratios_under_dapo_weigh_answers_by_length() -> None:
    """TRL allows it: luspo but for the divisor, T instead of S."""
    batch, outputs = further_case(7, counts=True)
    by_token, by_answer = GSPOLoss({"aggregation": "token_mean"}), LUSPOLoss()
    got, expected = (value_and_gradient(loss, batch, outputs, FIELD) for loss in (by_token, by_answer))
    ratio = batch["global_valid_seqs"] / batch["global_valid_toks"]
    torch.testing.assert_close(got[0], expected[0] * ratio)
    torch.testing.assert_close(got[1], expected[1] * ratio)


@pytest.mark.parametrize(("empty", "expected"), [("zero", 0.0), ("nan", math.nan)])
def test_the_mean_over_no_token(empty: str, expected: float) -> None:
    batch, outputs = further_case(8)
    loss = BNPOLoss({"empty": empty})
    assert loss.contract.empty == empty
    ordinary = loss.compute_loss(batch, outputs)
    torch.testing.assert_close(ordinary, BNPOLoss().compute_loss(batch, outputs))
    value, gradient = value_and_gradient(loss, batch | {"token_mask": torch.zeros(4, 6)}, outputs, FIELD)
    assert value.item() == pytest.approx(expected, nan_ok=True)
    assert gradient.abs().sum() == 0


@pytest.mark.parametrize("name", ["ppo_clip", "grpo", "dapo", "bnpo", "dr_grpo", "ppo_dual_clip", "cispo", "sapo"])
def test_every_clipped_loss_has_the_clamp(name: str) -> None:
    config = {"max_length": 8} if name == "dr_grpo" else {}
    with pytest.raises(ConfigError, match="log_ratio_clamp=0 is out of range; expected a number above 0"):
        registry.create(name, config | {"log_ratio_clamp": 0})
    batch, outputs = spread(9)
    clamped = registry.create(name, config | {"log_ratio_clamp": 1.0})
    _, gradient = value_and_gradient(clamped, batch, outputs, FIELD)
    beyond = (outputs[FIELD] - batch["prev_logprobs"][:, 1:]).abs() > 1
    if name not in ("cispo", "grpo"):  # their gradient also comes from elsewhere
        assert gradient[beyond].abs().sum() == 0
    assert torch.isfinite(gradient).all()
