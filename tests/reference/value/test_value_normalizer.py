"""Which tokens divide a value loss: those of the global batch, or those of this one."""

from __future__ import annotations

import math

import pytest
import torch

from loss_reference import ConfigError, ValueClippedLoss, ValueMSELoss
from tests.reference.cases import Tensors, case, value_and_gradient

CLASSES = (ValueMSELoss, ValueClippedLoss)


def with_old_values(seed: int) -> tuple[Tensors, Tensors]:
    batch, outputs = case(seed, counts=True, sample_mask="floats")
    g = torch.Generator().manual_seed(seed)
    batch["values"] = outputs["values"] + torch.randn(4, 6, generator=g, dtype=torch.float64)
    return batch, outputs


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("normalizer", ["local", "local_or_nan"])
def test_the_local_mean_ignores_the_global_count(cls: type[ValueMSELoss], normalizer: str) -> None:
    batch, outputs = with_old_values(1)
    loss = cls({"normalizer": normalizer})
    got = value_and_gradient(loss, batch, outputs, "values")
    expected = value_and_gradient(cls(), {k: x for k, x in batch.items() if "global" not in k}, outputs, "values")
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1], expected[1])
    whole = value_and_gradient(cls(), batch, outputs, "values")[0]
    m = batch["token_mask"][:, 1:] * batch["sample_mask"][:, None]
    torch.testing.assert_close(got[0], whole * batch["global_valid_toks"] / m.sum())
    assert loss.contract.normalizer == "local"
    assert cls().contract.normalizer == "global"


def test_torchtune_by_hand() -> None:
    """One tenth of half the mean of max((v - R)^2, (clipped v - R)^2), over the tokens that are trained."""
    batch, outputs = with_old_values(2)
    batch["sample_mask"] = torch.ones(4, dtype=torch.float64)
    trained = batch["token_mask"][:, 1:] != 0
    v, R, old = (x[:, 1:][trained] for x in (outputs["values"], batch["returns"], batch["values"]))
    moved = old + (v - old).clamp(-0.2, 0.2)
    expected = 0.1 * 0.5 * torch.maximum((v - R) ** 2, (moved - R) ** 2).mean()
    loss = ValueClippedLoss({"normalizer": "local", "scale": 0.1, "value_clip": 0.2})
    torch.testing.assert_close(loss.compute_loss(batch, outputs), expected)


@pytest.mark.parametrize("cls", CLASSES)
def test_the_mean_over_no_token(cls: type[ValueMSELoss]) -> None:
    batch, outputs = with_old_values(3)
    batch["token_mask"] = torch.zeros(4, 6)
    for normalizer, expected in (("global", 0.0), ("local", 0.0), ("local_or_nan", math.nan)):
        loss = cls({"normalizer": normalizer})
        value, gradient = value_and_gradient(loss, batch, outputs, "values")
        assert value.item() == pytest.approx(expected, nan_ok=True)
        assert gradient.abs().sum() == 0
        assert loss.contract.empty == ("nan" if normalizer == "local_or_nan" else "zero")


@pytest.mark.parametrize("cls", CLASSES)
def test_config_error(cls: type[ValueMSELoss]) -> None:
    with pytest.raises(ConfigError) as error:
        cls({"normalizer": "mean"})
    assert str(error.value) == (f"{cls.__name__}: normalizer='mean'; expected one of 'global', 'local', 'local_or_nan'")
