"""Clipped value loss: scale sum m max((v - R)^2, (clip(v, v_old - c, v_old + c) - R)^2) / (2 T_g)."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from loss_reference import ConfigError, ValueClippedLoss, ValueMSELoss
from loss_reference.value.value_clipped import value_clipped
from tests.reference.cases import Tensors, case, value_and_gradient


def with_old_values(seed: int, **kwargs: object) -> tuple[Tensors, Tensors]:
    batch, outputs = case(seed, **kwargs)  # type: ignore[arg-type]
    g = torch.Generator().manual_seed(seed)
    batch["values"] = outputs["values"] + torch.randn(4, 6, generator=g, dtype=torch.float64)
    return batch, outputs


@pytest.mark.parametrize(
    ("v", "R", "v_old", "value", "gradient"),
    [
        (1.0, 3.0, 1.0, 2.0, -2.0),  # has not moved
        (1.1, 3.0, 1.0, 1.805, -1.9),  # within the bound
        (2.0, 3.0, 1.0, 1.62, 0.0),  # towards the return, too far: (1.2 - 3)^2 / 2
        (0.0, 3.0, 1.0, 4.5, -3.0),  # away from it: its own error is the larger one
        (2.0, 0.0, 1.0, 2.0, 2.0),  # the same upwards
        (0.5, 0.0, 1.0, 0.32, 0.0),
        (1.2, 3.0, 1.0, 1.62, -1.8),  # exactly on the bound: whole
    ],
)
def test_by_hand(v: float, R: float, v_old: float, value: float, gradient: float) -> None:
    batch = {
        "token_mask": torch.ones(1, 2),
        "returns": torch.tensor([[9.0, R]], dtype=torch.float64),
        "values": torch.tensor([[9.0, v_old]], dtype=torch.float64),
    }
    outputs = {"values": torch.tensor([[5.0, v]], dtype=torch.float64)}
    for scale in (1.0, 0.1):
        got, got_gradient = value_and_gradient(ValueClippedLoss({"scale": scale}), batch, outputs, "values")
        assert got.item() == pytest.approx(scale * value)
        assert got_gradient[0].tolist() == pytest.approx([0, scale * gradient])


@pytest.mark.parametrize("clip", [0.1, 0.2, 1.0])
def test_smallest_at_the_return_or_where_the_clip_still_binds(clip: float) -> None:
    """0 with gradient 0 at v = R within reach; (|R - v_old| - c)^2 / 2 at v = R beyond it, which no prediction undercuts."""
    R = torch.linspace(-2, 2, 41, dtype=torch.float64)
    left = (R.abs() - clip).clamp(min=0).square() / 2  # v_old = 0
    v = R.clone().requires_grad_()
    terms = value_clipped(v, R, torch.zeros_like(R), clip)
    torch.testing.assert_close(terms, left)
    assert torch.autograd.grad(terms.sum(), v)[0].abs().max() == 0
    anywhere = torch.linspace(-5, 5, 1001, dtype=torch.float64)[:, None]
    assert (value_clipped(anywhere, R, torch.zeros_like(R), clip) >= left - 1e-15).all()


@pytest.mark.parametrize("counts", [False, True])
def test_where_the_critic_has_not_moved_it_is_the_squared_error(counts: bool) -> None:
    batch, outputs = case(1, sample_mask="floats", counts=counts)
    batch["values"] = outputs["values"]
    got, expected = (value_and_gradient(cls(), batch, outputs, "values") for cls in (ValueClippedLoss, ValueMSELoss))
    assert torch.equal(got[0], expected[0])
    torch.testing.assert_close(got[1], expected[1])


def test_a_wide_clip_is_the_squared_error() -> None:
    batch, outputs = with_old_values(2, sample_mask="floats")
    got = value_and_gradient(ValueClippedLoss({"value_clip": 1e9}), batch, outputs, "values")
    expected = value_and_gradient(ValueMSELoss(), batch, outputs, "values")
    assert torch.equal(got[0], expected[0])
    torch.testing.assert_close(got[1], expected[1])


def test_never_below_the_squared_error_and_falls_with_the_clip() -> None:
    g = torch.Generator().manual_seed(3)
    v, R, v_old = torch.randn(3, 1000, generator=g, dtype=torch.float64)
    terms: list[Tensor] = [value_clipped(v, R, v_old, clip) for clip in (0.01, 0.1, 0.5, 2.0, 1e9)]
    for tighter, looser in pairwise(terms):
        assert (tighter >= looser).all()
    torch.testing.assert_close(terms[-1], (v - R).square() / 2)


def test_a_common_shift_changes_nothing() -> None:
    batch, outputs = with_old_values(4)
    shifted = batch | {"returns": batch["returns"] + 3, "values": batch["values"] + 3}
    got = value_and_gradient(ValueClippedLoss(), shifted, {"values": outputs["values"] + 3}, "values")
    expected = value_and_gradient(ValueClippedLoss(), batch, outputs, "values")
    torch.testing.assert_close(got[0], expected[0])
    torch.testing.assert_close(got[1], expected[1])


def test_old_values_are_needed_and_constant() -> None:
    batch, outputs = with_old_values(5)
    with pytest.raises(KeyError, match="values"):
        ValueClippedLoss().compute_loss({k: x for k, x in batch.items() if k != "values"}, outputs)
    with pytest.raises(ValueError, match=r"values has shape \(4, 1\); expected \(4, 6\)"):
        ValueClippedLoss().compute_loss(batch | {"values": torch.zeros(4, 1)}, outputs)


@pytest.mark.parametrize("clip", [0, -0.1])
def test_clip_is_above_zero(clip: float) -> None:
    with pytest.raises(ConfigError) as error:
        ValueClippedLoss({"value_clip": clip})
    assert str(error.value) == f"ValueClippedLoss: value_clip={clip} is out of range; expected a number above 0"
