"""Value loss: scale sum m (v - R)^2 / (2 T_g)."""

from __future__ import annotations

import pytest
import torch

from loss_reference import ConfigError, ValueMSELoss
from tests.reference.cases import case, value_and_gradient

BATCH = {
    "token_mask": torch.tensor([[1.0, 1, 1], [1, 0, 1]]),
    "returns": torch.tensor([[9.0, 1, 2], [9, 9, 0]]),
}
OUTPUTS = {"values": torch.tensor([[5.0, 2, 0], [5, 5, 3]])}


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_by_hand(scale: float) -> None:
    value, gradient = value_and_gradient(ValueMSELoss({"scale": scale}), BATCH, OUTPUTS, "values")
    assert value.item() == pytest.approx(scale * (1 + 4 + 9) / 2 / 3)
    torch.testing.assert_close(gradient, scale * torch.tensor([[0.0, 1, -2], [0, 0, 3]]) / 3)


def test_zero_with_zero_gradient_at_the_return() -> None:
    value, gradient = value_and_gradient(ValueMSELoss(), BATCH, {"values": BATCH["returns"]}, "values")
    assert value == 0
    assert gradient.abs().sum() == 0


def test_a_common_shift_changes_nothing() -> None:
    batch, outputs = case(1)
    shifted = {"values": outputs["values"] + 3}
    got = ValueMSELoss().compute_loss(batch | {"returns": batch["returns"] + 3}, shifted)
    torch.testing.assert_close(got, ValueMSELoss().compute_loss(batch, outputs))


@pytest.mark.parametrize("scale", [0, -1.0])
def test_scale_is_above_zero(scale: float) -> None:
    with pytest.raises(ConfigError) as error:
        ValueMSELoss({"scale": scale})
    assert str(error.value) == f"ValueMSELoss: scale={scale} is out of range; expected a number above 0"
