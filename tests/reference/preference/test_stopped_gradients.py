"""Gradients of losses that hold part of themselves constant: finite differences of the oracle with that part frozen."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from loss_reference import registry
from tests.oracles import preference_unpaired, preference_weighted
from tests.reference.cases import Tensors, rows_of, value_and_gradient
from tests.reference.preference.answers import answers, answers_for
from tests.reference.preference.test_weighted import with_reference_logprobs
from tests.reference.test_against_oracles import arrays, difference_gradient

LP = "next_token_logprobs"


def one_pair(name: str, seed: int) -> tuple[Tensors, Tensors]:
    """Return pair 2 of the answers, of which both rows have tokens, with reference log-probs that fit its logits."""
    batch, outputs = answers_for(name, seed, sample_mask=None, vocabulary=4)
    batch["token_mask"][4:6, 2:5] = 1.0
    batch = with_reference_logprobs(batch)
    batch["reference_policy_logprobs"] = batch["reference_policy_logprobs"] - 0.3
    return rows_of({k: x for k, x in batch.items() if "pairs" not in k}, 4, 6), {"logits": outputs["logits"][4:6]}


@pytest.mark.parametrize("config", [{}, {"beta": 1.0, "label_smoothing": 0.2}])
def test_the_weight_of_wpo_is_constant(config: dict[str, Any]) -> None:
    batch, outputs = one_pair("wpo", 3)
    value, gradient = value_and_gradient(registry.create("wpo", config), batch, outputs, "logits")
    plain, plain_gradient = value_and_gradient(registry.create("dpo", config), batch, outputs, "logits")
    weight = value / plain
    assert 0.01 < weight < 0.9
    torch.testing.assert_close(gradient, weight * plain_gradient)


@pytest.mark.parametrize("alpha", [0.5, 2.0])
def test_tdpo2_moves_the_chosen_answer_as_dpo_does_and_the_rejected_one_as_its_value(alpha: float) -> None:
    batch, outputs = one_pair("tdpo2", 5)
    config = {"alpha": alpha, "beta": 1.0}
    _, gradient = value_and_gradient(registry.create("tdpo2", config), batch, outputs, "logits")
    _, dpo = value_and_gradient(registry.create("dpo", {"beta": 1.0}), batch, outputs, "logits")
    share = (gradient[0] * dpo[0]).sum() / dpo[0].square().sum()
    assert share > 0
    torch.testing.assert_close(gradient[0], share * dpo[0])
    by_difference = difference_gradient(preference_weighted.tdpo2, arrays(batch), arrays(outputs), "logits", config)
    torch.testing.assert_close(gradient[1], by_difference[1], rtol=1e-6, atol=1e-9)
    assert not torch.allclose(gradient[0], by_difference[0], rtol=1e-2)


def test_bco_measures_from_a_mean_that_receives_no_gradient() -> None:
    batch, outputs = answers(7, rows=6, sample_mask="floats", width=4)
    loss, config = registry.create("bco", {"beta": 0.7}), {"beta": 0.7, "training": False, "count": 1.0}
    _, gradient = value_and_gradient(loss, batch, outputs, LP)
    frozen = {**config, "mean": float(loss.state_dict()["reward_mean"])}
    only = {LP: outputs[LP].numpy()}
    by_difference = difference_gradient(preference_unpaired.bco, arrays(batch), only, LP, frozen)
    torch.testing.assert_close(gradient, by_difference, rtol=1e-6, atol=1e-9)
    assert abs(frozen["mean"]) > 0.01
