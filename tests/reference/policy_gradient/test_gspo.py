"""GSPO, GSPO-token, LUSPO and GMPO: one ratio per answer."""

from __future__ import annotations

import math

import pytest
import torch

from loss_reference import ConfigError, GMPOLoss, GSPOLoss, GSPOTokenLoss, LUSPOLoss, PPOClipLoss, registry
from loss_reference.policy_gradient.gmpo import one_sided_clip
from tests.reference.cases import Tensors, case, value_and_gradient

FIELD = "next_token_logprobs"
WIDE = {"ratio_clip_min": 1.0, "ratio_clip_max": 1e9}


def rows(ratios: list[list[float]], advantages: list[list[float]], mask: list[list[float]]) -> tuple[Tensors, Tensors]:
    rho, A = (torch.tensor(x, dtype=torch.float64) for x in (ratios, advantages))
    lp = torch.full_like(rho, -0.7)
    nan = torch.full((len(rho), 1), math.nan, dtype=torch.float64)
    batch = {
        "token_mask": torch.cat([torch.ones(len(rho), 1), torch.tensor(mask)], dim=1),
        "prev_logprobs": torch.cat([nan, lp - rho.log()], dim=1),
        "advantages": torch.cat([nan, A], dim=1),
    }
    return batch, {FIELD: lp}


def near(seed: int, **kwargs: object) -> tuple[Tensors, Tensors]:
    """Return a random case whose policy is next to the old one: about half of the rows are clipped at 0.1."""
    batch, outputs = case(seed, **kwargs)  # type: ignore[arg-type]
    g = torch.Generator().manual_seed(seed)
    batch["prev_logprobs"][:, 1:] = outputs[FIELD] + 0.3 * torch.randn(4, 5, generator=g, dtype=torch.float64)
    return batch, outputs


def test_gspo_by_hand() -> None:
    """Row 0: s = sqrt(4 * 1) = 2, clipped at 1.5 for A = 1 and not for A = -3; row 1: s = 0.9, open."""
    batch, outputs = rows([[4, 1], [0.9, 7]], [[1, -3], [2, 9]], [[1, 1], [1, 0]])
    config = {"ratio_clip_min": 0.2, "ratio_clip_max": 0.5}
    value, gradient = value_and_gradient(GSPOLoss(config), batch, outputs, FIELD)
    assert value.item() == pytest.approx(((-1.5 + 6) / 2 - 1.8) / 2)
    # Only the second token of row 0 is open; its 6 / 2 moves both tokens by half of it.
    torch.testing.assert_close(gradient, torch.tensor([[1.5, 1.5], [-1.8, 0]]).double() / 2)


def test_gspo_token_by_hand() -> None:
    batch, outputs = rows([[4, 1], [0.9, 7]], [[1, -3], [2, 9]], [[1, 1], [1, 0]])
    config = {"ratio_clip_min": 0.2, "ratio_clip_max": 0.5}
    value, gradient = value_and_gradient(GSPOTokenLoss(config), batch, outputs, FIELD)
    assert value.item() == pytest.approx(((-1.5 + 6) / 2 - 1.8) / 2)
    torch.testing.assert_close(gradient, torch.tensor([[0.0, 3.0], [-1.8, 0]]).double() / 2)


@pytest.mark.parametrize("sample_mask", [None, "zeros", "floats"])
@pytest.mark.parametrize("config", [{}, {"ratio_clip_min": 0.1, "ratio_clip_max": 0.1}, WIDE])
def test_gspo_token_is_gspo_where_a_sequence_has_one_advantage(
    config: dict[str, float], sample_mask: str | None
) -> None:
    batch, outputs = near(1, sample_mask=sample_mask)
    got, expected = (value_and_gradient(cls(config), batch, outputs, FIELD) for cls in (GSPOTokenLoss, GSPOLoss))
    assert torch.equal(got[0], expected[0])
    assert not torch.allclose(got[1], expected[1])
    batch["advantages"] = batch["advantages"][:, 3:4].expand(4, 6)
    got, expected = (value_and_gradient(cls(config), batch, outputs, FIELD) for cls in (GSPOTokenLoss, GSPOLoss))
    assert torch.equal(got[0], expected[0])
    torch.testing.assert_close(got[1], expected[1])


@pytest.mark.parametrize("cls", [GSPOLoss, GSPOTokenLoss, LUSPOLoss])
def test_rows_of_one_token_are_ppo(cls: type[GSPOLoss]) -> None:
    batch, outputs = near(2, sample_mask="floats")
    batch["token_mask"] = torch.zeros(4, 6, dtype=torch.float64)
    batch["token_mask"][torch.arange(4), torch.tensor([1, 3, 5, 2])] = 1
    config = {"ratio_clip_min": 0.1, "ratio_clip_max": 0.2}
    got = value_and_gradient(cls(config), batch, outputs, FIELD)
    expected = value_and_gradient(PPOClipLoss(config), batch, outputs, FIELD)
    torch.testing.assert_close(got[0], expected[0])
    torch.testing.assert_close(got[1], expected[1])


def test_luspo_is_gspo_times_the_length() -> None:
    for seed in range(3):
        batch, outputs = near(3 + seed, sample_mask="floats")
        loss, gradient, lengths = 0.0, torch.zeros(4, 5, dtype=torch.float64), batch["token_mask"][:, 1:].sum(dim=1)
        for b in range(4):
            one = batch["sample_mask"] * (torch.arange(4) == b)
            count = {"global_valid_seqs": batch["sample_mask"].sum()}
            value, slope = value_and_gradient(GSPOLoss(), batch | count | {"sample_mask": one}, outputs, FIELD)
            loss, gradient = loss + lengths[b] * value, gradient + lengths[b] * slope
        got, got_gradient = value_and_gradient(LUSPOLoss(), batch, outputs, FIELD)
        torch.testing.assert_close(got, torch.as_tensor(loss))
        torch.testing.assert_close(got_gradient, gradient)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_saturation_of_the_sequence_ratio(dtype: torch.dtype) -> None:
    batch, outputs = rows([[1, 1]], [[-1, -1]], [[1, 1]])
    batch["prev_logprobs"] = batch["prev_logprobs"] - 300
    outputs = {FIELD: outputs[FIELD].to(dtype)}
    for cls in (GSPOLoss, GSPOTokenLoss, LUSPOLoss, GMPOLoss):
        value, gradient = value_and_gradient(cls(), batch, outputs, FIELD)
        length = 2 if cls is LUSPOLoss else 1
        assert value.item() == pytest.approx(length * math.exp(70), rel=1e-5)
        assert gradient.abs().sum() == 0
    batch["advantages"] = -batch["advantages"]
    value, gradient = value_and_gradient(GSPOLoss(), batch, outputs, FIELD)
    assert value.item() == pytest.approx(-1.0004)
    assert gradient.abs().sum() == 0


def test_gmpo_by_hand() -> None:
    """Row 0, A > 0: ratios e and e^-1 become e^0.4 and e^-1; row 1, A < 0: e^-1 becomes e^-0.3, the mask ends it."""
    e = math.e
    batch, outputs = rows([[e, 1 / e], [1 / e, 7]], [[2, 2], [-1, 9]], [[1, 1], [1, 0]])
    value, gradient = value_and_gradient(GMPOLoss({"ratio_clip_min": 0.3}), batch, outputs, FIELD)
    assert value.item() == pytest.approx((-2 * math.exp(-0.3) + math.exp(-0.3)) / 2)
    torch.testing.assert_close(gradient, torch.tensor([[0, -math.exp(-0.3)], [0, 0]]).double() / 2)


def test_one_sided_clip() -> None:
    delta = torch.tensor([-1.0, -0.4, 0.1, 0.5, 1.0], dtype=torch.float64, requires_grad=True)
    up, down = (one_sided_clip(delta, torch.full((5,), a, dtype=torch.float64), 0.4, 0.5) for a in (2.0, -2.0))
    assert up.tolist() == [-1, -0.4, 0.1, 0.5, 0.5]
    assert down.tolist() == [-0.4, -0.4, 0.1, 0.5, 1]
    # Exactly on a bound the gradient is whole.
    assert torch.autograd.grad(up.sum(), delta)[0].tolist() == [1, 1, 1, 1, 0]
    assert torch.autograd.grad(down.sum(), delta)[0].tolist() == [0, 1, 1, 1, 1]


def test_gmpo_of_one_token_is_ppo_with_exponential_bounds() -> None:
    batch, outputs = case(7, sample_mask="floats")
    batch["token_mask"] = torch.zeros(4, 6, dtype=torch.float64)
    batch["token_mask"][torch.arange(4), torch.tensor([1, 3, 5, 2])] = 1
    bounds = {"ratio_clip_min": 1 - math.exp(-0.3), "ratio_clip_max": math.expm1(0.6)}
    got = value_and_gradient(GMPOLoss({"ratio_clip_min": 0.3, "ratio_clip_max": 0.6}), batch, outputs, FIELD)
    expected = value_and_gradient(PPOClipLoss(bounds), batch, outputs, FIELD)
    torch.testing.assert_close(got[0], expected[0])
    torch.testing.assert_close(got[1], expected[1])


def test_gmpo_without_a_clip_is_gspo_without_one() -> None:
    batch, outputs = near(8, sample_mask="floats")
    never = {"ratio_clip_min": 1e3, "ratio_clip_max": 1e3}
    got = value_and_gradient(GMPOLoss(never), batch, outputs, FIELD)
    expected = value_and_gradient(GSPOLoss(WIDE), batch, outputs, FIELD)
    torch.testing.assert_close(got[0], expected[0])
    torch.testing.assert_close(got[1], expected[1])


@pytest.mark.parametrize("cls", [GSPOLoss, GSPOTokenLoss, LUSPOLoss, GMPOLoss])
@pytest.mark.parametrize("key", ["ratio_clip_min", "ratio_clip_max"])
def test_config_errors(cls: type[GSPOLoss], key: str) -> None:
    with pytest.raises(ConfigError) as error:
        cls({key: -0.1})
    assert str(error.value) == f"{cls.__name__}: {key}=-0.1 is out of range; expected a number at least 0"
    with pytest.raises(
        ConfigError, match=r"unknown config key 'aggregatoin'; expected .*ratio_clip_min, ratio_clip_max"
    ):
        cls({"aggregatoin": "token_mean"})


def test_the_penalty_of_luspo_is_a_loss_of_its_own() -> None:
    batch, outputs = near(9, sample_mask="floats", counts=True)
    both, alone = (LUSPOLoss(config) for config in ({"reference_policy_kl_penalty": 0.3}, {}))
    kl = registry.create("kl_k3", {"aggregation": "seq_mean_token_sum"})
    got, plain, penalty = (value_and_gradient(loss, batch, outputs, FIELD) for loss in (both, alone, kl))
    torch.testing.assert_close(got[0], plain[0] + 0.3 * penalty[0])
    torch.testing.assert_close(got[1], plain[1] + 0.3 * penalty[1])


def test_padding_that_counts_in_the_penalty_of_luspo() -> None:
    """Row 0: two trained tokens, a hole and a padded one after them; row 1 begins with a prompt, which is no padding."""
    batch, outputs = rows([[1, 1, 1], [1, 1, 1]], [[0, 0, 0], [0, 0, 0]], [[1, 1, 0], [0, 0, 1]])
    d = torch.tensor([[0.5, -1.0, 2.0], [3.0, 3.0, 0.0]], dtype=torch.float64)
    batch["reference_policy_logprobs"] = torch.cat([torch.full((2, 1), math.nan), outputs[FIELD] - d], dim=1)
    k3 = torch.expm1(-d) + d
    config = {"reference_policy_kl_penalty": 0.4}
    ignored, counted = (LUSPOLoss(config | {"padding": padding}) for padding in ("ignored", "counted"))
    value, gradient = value_and_gradient(ignored, batch, outputs, FIELD)
    assert value.item() == pytest.approx(0.4 * (k3[0, 0] + k3[0, 1]).item() / 2)
    assert gradient[0, 2] == 0
    value, gradient = value_and_gradient(counted, batch, outputs, FIELD)
    assert value.item() == pytest.approx(0.4 * 2 * k3[0].mean().item() / 2)
    torch.testing.assert_close(gradient, 0.4 * torch.stack([2 / 3 * -torch.expm1(-d[0]), 0 * d[1]]) / 2)
    batch["token_mask"][0] = 0
    assert value_and_gradient(counted, batch, outputs, FIELD)[0] == 0  # a row without tokens has no answer
    assert set(counted.contract.exempt) == {"mask_value", "mask_extreme", "mask_gradient", "padding"}
    for config in ({}, {"reference_policy_kl_penalty": 0.4}):
        assert not LUSPOLoss(config).contract.exempt
