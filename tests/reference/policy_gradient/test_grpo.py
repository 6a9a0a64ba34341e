"""GRPO: the PPO term plus a KL penalty per token."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from loss_reference import ConfigError, Contract, GRPOLoss, PPOClipLoss
from tests.reference.cases import case, value_and_gradient

SAME = {"aggregation": "seq_mean_token_mean"}


def test_by_hand() -> None:
    """Row 0: rho 1.5 (A 2, clipped) and rho 1 (A 2); row 1: rho 0.5 (A -1, clipped). d = log 2 on every token."""
    lp = torch.log(torch.tensor([[0.3, 0.2], [0.1, 0.5]], dtype=torch.float64))
    rho = torch.tensor([[1.5, 1.0], [0.5, 9.0]], dtype=torch.float64)
    batch = {
        "token_mask": torch.tensor([[1.0, 1, 1], [0, 1, 0]]),
        "prev_logprobs": torch.cat([torch.full((2, 1), math.nan), lp - rho.log()], dim=1),
        "reference_policy_logprobs": torch.cat([torch.full((2, 1), math.nan), lp - math.log(2)], dim=1),
        "advantages": torch.tensor([[0.0, 2, 2], [0, -1, -1]]),
    }
    k3 = math.log(2) - 0.5
    parts = GRPOLoss({"reference_policy_kl_penalty": 0.1}).components(batch, {"next_token_logprobs": lp})
    assert parts["policy"].item() == pytest.approx(((-2.4 - 2) / 2 + 0.8) / 2)
    assert parts["kl_penalty"].item() == pytest.approx(0.1 * k3)
    value, gradient = value_and_gradient(
        GRPOLoss({"reference_policy_kl_penalty": 0.1}), batch, {"next_token_logprobs": lp}, "next_token_logprobs"
    )
    assert value.item() == pytest.approx(((-2.4 - 2) / 2 + 0.8) / 2 + 0.1 * k3)
    by_hand = torch.tensor([[0.0, -2], [0, 0]]) + 0.1 * torch.tensor([[0.5, 0.5], [0.5, 0]])
    torch.testing.assert_close(gradient, (by_hand / torch.tensor([[4.0], [2.0]])).double())


def test_without_penalty_it_is_ppo_and_reads_no_reference() -> None:
    batch, outputs = case(1, sample_mask="floats")
    expected = value_and_gradient(PPOClipLoss(SAME), batch, outputs, "next_token_logprobs")
    del batch["reference_policy_logprobs"]
    loss = GRPOLoss({"reference_policy_kl_penalty": 0})
    got = value_and_gradient(loss, batch, outputs, "next_token_logprobs")
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1], expected[1])
    assert list(loss.components(batch, outputs)) == ["policy"]


def test_at_the_reference_and_on_policy_only_the_advantage_remains() -> None:
    batch, outputs = case(2)
    batch["reference_policy_logprobs"] = batch["prev_logprobs"]
    outputs["next_token_logprobs"] = batch["prev_logprobs"][:, 1:]
    got = value_and_gradient(GRPOLoss(), batch, outputs, "next_token_logprobs")
    expected = value_and_gradient(PPOClipLoss(SAME), batch, outputs, "next_token_logprobs")
    assert torch.equal(got[0], expected[0])
    torch.testing.assert_close(got[1], expected[1])


def test_missing_reference_is_named() -> None:
    batch, outputs = case(3)
    del batch["reference_policy_logprobs"]
    with pytest.raises(KeyError, match="reference_policy_logprobs"):
        GRPOLoss().compute_loss(batch, outputs)


@pytest.mark.parametrize("kl_gradient", ["pathwise", "score_function", "straight_through_k2"])
def test_far_from_the_reference_stays_finite_in_float32(kl_gradient: str) -> None:
    batch, outputs = case(4, dtype=torch.float32)
    batch["reference_policy_logprobs"] = batch["reference_policy_logprobs"] + 300
    batch["prev_logprobs"] = batch["prev_logprobs"] - 300
    value, gradient = value_and_gradient(GRPOLoss({"kl_gradient": kl_gradient}), batch, outputs, "next_token_logprobs")
    assert math.isfinite(value)
    assert torch.isfinite(gradient).all()


def test_the_gradient_option_leaves_the_value() -> None:
    batch, outputs = case(5)
    values = [GRPOLoss({"kl_gradient": g}).compute_loss(batch, outputs) for g in ("pathwise", "score_function")]
    torch.testing.assert_close(values[0], values[1], rtol=1e-14, atol=0)


def test_a_subclass_may_add_to_the_loss_and_to_the_components() -> None:
    class Extended(GRPOLoss):
        def compute_loss(self, batch: object, model_outputs: object) -> Tensor:
            return super().compute_loss(batch, model_outputs) + 1  # type: ignore[arg-type]

        def components(self, batch: object, model_outputs: object) -> dict[str, Tensor]:
            total = self.compute_loss(batch, model_outputs)
            return super().components(batch, model_outputs) | {"total": total}  # type: ignore[arg-type]

    batch, outputs = case(6)
    parts = Extended().components(batch, outputs)
    torch.testing.assert_close(parts["total"], parts["policy"] + parts["kl_penalty"] + 1)


def test_contract_follows_the_config() -> None:
    assert GRPOLoss().contract.level == "sequence"
    assert GRPOLoss().contract.direction == {"advantages": -1, "reference_policy_kl_penalty": +1}
    assert GRPOLoss({"kl_type": "k1"}).contract.direction == {"advantages": -1}
    assert not GRPOLoss().contract.surrogate_gradient
    assert GRPOLoss({"kl_gradient": "score_function"}).contract.surrogate_gradient
    assert GRPOLoss({"aggregation": "token_mean"}).contract.level == "token"

    class Mine(GRPOLoss):
        contract = Contract(family="policy_gradient")

    assert not Mine().contract.declares("level")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"reference_policy_kl_penalty": -1},
            "GRPOLoss: reference_policy_kl_penalty=-1 is out of range; expected a number at least 0",
        ),
        ({"kl_type": "k4"}, "GRPOLoss: kl_type='k4'; expected one of 'k1', 'k2', 'k3', 'abs'"),
        ({"beta": 0.1}, None),
    ],
)
def test_config_errors(config: dict[str, object], message: str | None) -> None:
    with pytest.raises(ConfigError) as error:
        GRPOLoss(config)
    assert message is None or str(error.value) == message
