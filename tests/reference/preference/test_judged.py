"""Losses of judged pairs: online DPO, XPO, SPPO with win probabilities."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from loss_reference import registry
from tests.reference.cases import Tensors, value_and_gradient
from tests.reference.preference.answers import answers, one_token

LP = "next_token_logprobs"
LOSS_TYPES = [("sigmoid", "dpo"), ("ipo", "ipo")]
SWAPPED = torch.tensor([1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10])


def swapped(tensors: Tensors) -> Tensors:
    return {k: x[SWAPPED] if len(x) == 12 else x for k, x in tensors.items()}


@pytest.mark.parametrize(("loss_type", "pair_loss"), LOSS_TYPES)
def test_online_dpo_of_first_rows_that_win_is_dpo(loss_type: str, pair_loss: str) -> None:
    batch, outputs = answers(3, sample_mask="floats")
    loss = registry.create("online_dpo", {"loss_type": loss_type, "beta": 0.3})
    expected = value_and_gradient(registry.create(pair_loss, {"beta": 0.3}), batch, outputs, LP)
    for label in (1, 7, -1):
        batch["labels"] = torch.tensor([label, 0] * 6)  # the label of the second row is not read
        torch.testing.assert_close(value_and_gradient(loss, batch, outputs, LP), expected)
    batch["labels"] = torch.tensor([0, 1] * 6)
    got, gradient = value_and_gradient(loss, batch, outputs, LP)
    mirrored = value_and_gradient(registry.create(pair_loss, {"beta": 0.3}), swapped(batch), swapped(outputs), LP)
    torch.testing.assert_close((got, gradient[SWAPPED]), mirrored)


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo"])
def test_xpo_adds_the_log_probability_of_the_references_sample(loss_type: str) -> None:
    batch, outputs = answers(5, sample_mask="floats")
    config: dict[str, Any] = {"loss_type": loss_type}
    base, base_gradient = value_and_gradient(registry.create("online_dpo", config), batch, outputs, LP)
    same = value_and_gradient(registry.create("xpo", {**config, "alpha": 0.0}), batch, outputs, LP)
    torch.testing.assert_close(same, (base, base_gradient))
    got, gradient = value_and_gradient(registry.create("xpo", {**config, "alpha": 0.3}), batch, outputs, LP)
    pair = batch["sample_mask"].reshape(-1, 2).amin(1)
    share = (pair / pair.sum().clamp(min=1))[:, None]
    trained = outputs[LP][1::2] * batch["token_mask"][1::2, 1:] * (share != 0)
    torch.testing.assert_close(got - base, 0.3 * (share * trained).sum())
    torch.testing.assert_close(gradient[0::2], base_gradient[0::2])
    torch.testing.assert_close((gradient - base_gradient)[1::2], 0.3 * share * batch["token_mask"][1::2, 1:])


def test_xpo_has_no_lower_bound() -> None:
    batch, outputs = one_token([200.0, 0.0], p=-500.0, labels=[1.0, 0.0])
    assert value_and_gradient(registry.create("xpo", {"alpha": 1.0}), batch, outputs, LP)[0].item() < -400
    assert registry.create("xpo").contract.lower_bound == -math.inf


@pytest.mark.parametrize(("name", "config"), [("online_dpo", {}), ("xpo", {"alpha": 0.0})])
def test_at_policy_equal_to_reference(name: str, config: dict[str, Any]) -> None:
    for label in (0.0, 1.0):
        batch, outputs = one_token([0.0, 0.0], labels=[label, 0.0])
        assert value_and_gradient(registry.create(name, config), batch, outputs, LP)[0].item() == pytest.approx(
            math.log(2)
        )


def test_sppo_of_a_certain_win_is_sppo_hard() -> None:
    batch, outputs = answers(7, sample_mask="floats", counts=True)
    batch["preference_probability"] = torch.tensor([1.0, 0.3] * 6, dtype=torch.float64)
    expected = value_and_gradient("sppo_hard", batch, outputs, LP)
    torch.testing.assert_close(value_and_gradient("sppo_soft", batch, outputs, LP), expected)


@pytest.mark.parametrize("probability", [0.0, 0.2, 0.5, 0.9])
def test_sppo_is_least_at_the_log_ratio_of_the_probability(probability: float) -> None:
    h = (probability - 0.5) / 0.4
    batch, outputs = one_token([h, -h], preference_probability=[probability, 0.0])
    value, gradient = value_and_gradient(registry.create("sppo_soft", {"beta": 0.4}), batch, outputs, LP)
    assert value.item() == pytest.approx(0.0, abs=1e-30)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-14)
    batch, outputs = one_token([0.0, 0.0], preference_probability=[probability, 0.0])
    assert value_and_gradient(registry.create("sppo_soft", {"beta": 0.4}), batch, outputs, LP)[
        0
    ].item() == pytest.approx(2 * h**2)
