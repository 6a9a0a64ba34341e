"""Reward models of single answers, of steps, and of K answers."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch
import torch.nn.functional as F

from loss_reference import ConfigError, registry
from tests.reference.cases import Tensors, value_and_gradient

RANKING = ("all_pairs_k", "plackett_luce_rm")


def ranked(name: str, predicted: list[float], true: list[float], **extra: torch.Tensor) -> tuple[float, torch.Tensor]:
    outputs = {"rewards": torch.tensor(predicted, dtype=torch.float64)}
    batch = {"rewards": torch.tensor(true, dtype=torch.float64), **extra}
    K = int(extra.get("K", torch.tensor(len(true))))
    value, gradient = value_and_gradient(registry.create(name, {"group_size": K}), batch, outputs, "rewards")
    return value.item(), gradient


@pytest.mark.parametrize("K", [2, 3, 6])
def test_equal_scores(K: int) -> None:
    true = [float(k % 4 + k / 10) for k in range(K)]
    assert ranked("all_pairs_k", [1.5] * K, true)[0] == pytest.approx(math.log(2))
    assert ranked("plackett_luce_rm", [1.5] * K, true)[0] == pytest.approx(math.log(math.factorial(K)))


@pytest.mark.parametrize("name", RANKING)
@pytest.mark.parametrize("true", [[1.0, 0.0], [-3.0, 5.0]])
def test_two_answers_are_bradley_terry(name: str, true: list[float]) -> None:
    better_first = [0.3, 1.1] if true[0] > true[1] else [1.1, 0.3]
    outputs = {"rewards": torch.tensor(better_first, dtype=torch.float64)}
    expected, gradient = value_and_gradient("bradley_terry", {}, outputs, "rewards")
    value, got = ranked(name, [0.3, 1.1], true)
    assert value == pytest.approx(expected.item(), rel=1e-15)
    assert got.tolist() == pytest.approx(gradient.tolist() if true[0] > true[1] else gradient.flip(0).tolist())


def test_probabilities_of_all_orders_sum_to_1() -> None:
    r = [0.3, -1.0, 2.0]
    total = sum(math.exp(-ranked("plackett_luce_rm", r, list(order))[0]) for order in permutations([0.0, 1.0, 2.0]))
    assert total == pytest.approx(1)


@pytest.mark.parametrize("name", RANKING)
def test_only_the_order_and_differences_matter(name: str) -> None:
    value, gradient = ranked(name, [0.3, -1.0, 2.0, 0.1], [3.0, 0.5, 7.0, -2.0])
    again = ranked(name, [10.3, 9.0, 12.0, 10.1], [103.0, 1.0, 1e9, -2e9])
    assert again[0] == pytest.approx(value)
    torch.testing.assert_close(again[1], gradient)
    assert gradient.sum() == pytest.approx(0, abs=1e-15)
    assert gradient[2] < 0 < gradient[3]


def test_ties() -> None:
    assert ranked("all_pairs_k", [0.3, -1.0], [2.0, 2.0])[0] == 0
    # Of three pairs one says nothing, and is counted.
    value = ranked("all_pairs_k", [0.0, 1.0, 0.0], [1.0, 0.0, 0.0])[0]
    assert value == pytest.approx((math.log1p(math.e) + math.log(2)) / 3)
    tied = ranked("plackett_luce_rm", [0.3, -1.0, 2.0], [1.0, 1.0, 1.0])
    assert tied[0] == pytest.approx(ranked("plackett_luce_rm", [0.3, -1.0, 2.0], [3.0, 2.0, 1.0])[0])


@pytest.mark.parametrize("name", RANKING)
def test_groups_weigh_their_smallest_row(name: str) -> None:
    predicted, true = [0.3, -1.0, 2.0, 0.5, 0.5, 0.1], [1.0, 2.0, 3.0, 6.0, 5.0, 4.0]
    first, second = (ranked(name, predicted[i : i + 3], true[i : i + 3])[0] for i in (0, 3))
    mask = torch.tensor([1.0, 0.5, 2.0, 3.0, 2.0, 4.0])
    both = {"K": torch.tensor(3), "sample_mask": mask}
    assert ranked(name, predicted, true, **both)[0] == pytest.approx((0.5 * first + 2 * second) / 2.5)
    count = {"K": torch.tensor(3), "global_valid_seqs": torch.tensor(12.0)}
    assert ranked(name, predicted, true, **count)[0] == pytest.approx((first + second) / 4)
    mask[1], predicted[1], true[1] = 0, math.nan, math.nan
    value, gradient = ranked(name, predicted, true, **both)
    assert value == pytest.approx(second)
    assert gradient[:3].tolist() == [0, 0, 0]


@pytest.mark.parametrize("name", RANKING)
def test_far_apart(name: str) -> None:
    value, gradient = ranked(name, [-1e4, 0.0, 1e4], [3.0, 2.0, 1.0])
    assert value == pytest.approx(4e4 / 3 if name == "all_pairs_k" else 3e4)
    assert torch.isfinite(gradient).all()
    assert ranked(name, [1e4, 0.0, -1e4], [3.0, 2.0, 1.0])[0] == 0


@pytest.mark.parametrize("name", RANKING)
def test_group_size(name: str) -> None:
    assert registry.create(name, {"group_size": 4}).contract.group_size == 4
    assert registry.create(name).contract.group_size == 2
    for wrong, expected in ((1, "at least 2"), (2.5, "a whole number"), ("3", "a finite number")):
        with pytest.raises(ConfigError, match=rf"group_size={wrong!r}.*{expected}"):
            registry.create(name, {"group_size": wrong})
    with pytest.raises(ValueError, match="rewards has 4 rows; groups have 3"):
        ranked(name, [0.0] * 4, [0.0] * 4, K=torch.tensor(3))


def test_regression_and_outcomes_by_hand() -> None:
    outputs = {"rewards": torch.tensor([1.0, -2.0, 1e4])}
    batch = {"scores": torch.tensor([1.0, 1.0, math.nan]), "sample_mask": torch.tensor([0.5, 2.0, 0.0])}
    value, gradient = value_and_gradient("reward_regression", batch, outputs, "rewards")
    assert value == pytest.approx(2 * 9 / 2.5)
    assert gradient.tolist() == pytest.approx([0, 2 * 2 * -3 / 2.5, 0])
    for labels in (torch.tensor([1, 0, 0]), torch.tensor([True, False, False])):
        value, gradient = value_and_gradient("orm_bce", {"labels": labels}, outputs, "rewards")
        assert value == pytest.approx((math.log1p(math.exp(-1)) + math.log1p(math.exp(-2)) + 1e4) / 3)
        assert torch.isfinite(gradient).all()
    soft = torch.tensor([0.3, 0.9, 1.0])
    expected = F.binary_cross_entropy_with_logits(outputs["rewards"], soft)
    assert registry.create("orm_bce").compute_loss({"labels": soft}, outputs) == pytest.approx(expected.item())


def steps(labels: list[int], mask: list[float], logits: torch.Tensor | None = None) -> tuple[Tensors, Tensors]:
    batch = {"step_labels": torch.tensor([labels]), "token_mask": torch.tensor([mask])}
    return batch, {"logits": torch.zeros(1, len(labels), 3) if logits is None else logits}


def test_process_rewards() -> None:
    logits = torch.zeros(1, 5, 3)
    logits[0, 1, 2], logits[0, 4] = 5.0, torch.tensor([math.nan, 0.0, 0.0])
    batch, outputs = steps([0, 2, -100, 1, 7], [1, 1, 1, 1, 0], logits)
    value, gradient = value_and_gradient("prm_token_ce", batch, outputs, "logits")
    assert value == pytest.approx((math.log1p(2 * math.exp(-5)) + math.log(3)) / 2)  # entry 0 means nothing
    assert gradient.abs().sum(-1)[0].ne(0).tolist() == [False, True, False, True, False]
    batch["step_labels"][0, 1:] = -100
    assert registry.create("prm_token_ce").compute_loss(batch, outputs) == 0
    batch["step_labels"][0, 3] = 3
    with pytest.raises(ValueError, match="step_labels holds token id 3, outside the vocabulary of 3 logits"):
        registry.create("prm_token_ce").compute_loss(batch, outputs)
