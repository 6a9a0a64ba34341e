"""How the terms of a policy-gradient loss are added up, by every aggregation: laws of the sum, not of the terms."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from loss_reference import BNPOLoss, DrGRPOLoss, LossFunction, registry
from loss_reference.token_level import TokenLevelLoss
from tests.reference.cases import Tensors, rows_of, value_and_gradient
from tests.reference.policy_gradient.further import FIELD, further_case, source_of
from tests.reference.test_against_oracles import AGGREGATIONS

BY_TOKEN = sorted(
    name
    for name in registry.names()
    if issubclass(registry.get(name), TokenLevelLoss)
    and registry.get(name).__module__.startswith("loss_reference.policy_gradient")
)


def create(name: str, aggregation: dict[str, Any]) -> LossFunction:
    return registry.create(name, {**aggregation, **({"max_length": 7.0} if name == "dr_grpo" else {})})


def halves(batch: Tensors, outputs: Tensors) -> list[tuple[Tensors, Tensors]]:
    return [(rows_of(batch, a, b), rows_of(outputs, a, b)) for a, b in ((0, 2), (2, 4))]


def test_the_losses_are_all_there() -> None:
    assert {"ppo_clip", "grpo", "gspo", "cispo", "sapo", "tis", "kl_k3", "entropy_bonus", "reinforce"} <= set(BY_TOKEN)


@pytest.mark.parametrize("aggregation", AGGREGATIONS, ids=lambda config: config["aggregation"])
@pytest.mark.parametrize("name", BY_TOKEN)
def test_microbatches_add_up_with_the_count_that_divides(name: str, aggregation: dict[str, Any]) -> None:
    """T_g for the mean over tokens, S_g for the others; the other count is not read."""
    batch, outputs = further_case(6, source_of(name), counts=True, sample_mask="floats")
    del batch["global_valid_seqs" if aggregation["aggregation"] == "token_mean" else "global_valid_toks"]
    loss, field = create(name, aggregation), source_of(name)
    whole, gradient = value_and_gradient(loss, batch, outputs, field)
    parts = [value_and_gradient(loss, *half, field) for half in halves(batch, outputs)]
    torch.testing.assert_close(sum(value for value, _ in parts), whole)
    torch.testing.assert_close(torch.cat([slope for _, slope in parts]), gradient)


@pytest.mark.parametrize("aggregation", AGGREGATIONS, ids=lambda config: config["aggregation"])
@pytest.mark.parametrize("name", BY_TOKEN)
def test_a_batch_twice_is_the_same_mean(name: str, aggregation: dict[str, Any]) -> None:
    batch, outputs = further_case(7, source_of(name), sample_mask="floats")
    loss = create(name, aggregation)
    twice = [{k: x if "pairs" in k else torch.cat([x, x]) for k, x in part.items()} for part in (batch, outputs)]
    got, expected = (loss.compute_loss(*case) for case in (twice, (batch, outputs)))
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("name", ["ppo_clip", "reinforce", "cispo", "kl_k3"])
def test_aggregations_are_one_where_every_answer_has_one_token(name: str) -> None:
    batch, outputs = further_case(8, sample_mask="floats")
    batch["token_mask"] = torch.zeros(4, 6, dtype=torch.float64)
    batch["token_mask"][torch.arange(4), torch.tensor([1, 3, 5, 2])] = 1
    expected = value_and_gradient(create(name, AGGREGATIONS[0]), batch, outputs, FIELD)
    for aggregation in AGGREGATIONS[1:]:
        value, gradient = value_and_gradient(create(name, aggregation), batch, outputs, FIELD)
        length = aggregation.get("max_length", 1.0)
        torch.testing.assert_close((length * value, length * gradient), expected)


@pytest.mark.parametrize(("divisor", "times"), [("sequences_times_length", 1), ("length", 2)])
def test_dr_grpo_by_length_alone_doubles_with_the_batch(divisor: str, times: float) -> None:
    batch, outputs = further_case(10, sample_mask="floats")
    loss = DrGRPOLoss({"max_length": 7.0, "divisor": divisor})
    twice = [{k: x if "pairs" in k else torch.cat([x, x]) for k, x in part.items()} for part in (batch, outputs)]
    torch.testing.assert_close(loss.compute_loss(*twice), times * loss.compute_loss(batch, outputs))


def test_bnpo_weighs_the_microbatches_alike() -> None:
    """Each divides by its own tokens: their sum is not the whole, their mean is where all have as many tokens."""

    def value_of(batch: Tensors, outputs: Tensors) -> float:
        return value_and_gradient(BNPOLoss(), batch, outputs, FIELD)[0].item()

    batch, outputs = further_case(9, counts=True, sample_mask=None)
    parts = [value_of(*half) for half in halves(batch, outputs)]
    assert abs(sum(parts) - value_of(batch, outputs)) > 0.01
    batch["token_mask"] = torch.ones_like(batch["token_mask"])
    parts = [value_of(*half) for half in halves(batch, outputs)]
    assert sum(parts) / 2 == pytest.approx(value_of(batch, outputs), rel=1e-12)
