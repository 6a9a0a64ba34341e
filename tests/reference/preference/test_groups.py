"""Losses of several answers to one prompt: noise contrast and rankings."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from loss_reference import registry
from loss_reference.preference.ranking import lambda_weights, lipo, plackett_luce
from loss_reference.preference.rrhf import rank_violations
from tests.reference.cases import Tensors, rows_of, value_and_gradient
from tests.reference.preference.answers import GROUPS, TRIPLES, answers, one_token

LP = "next_token_logprobs"
LOG2 = math.log(2)


def value_of(name: str, batch: Tensors, outputs: Tensors, **config: Any) -> float:
    return value_and_gradient(registry.create(name, config), batch, outputs, LP)[0].item()


@pytest.mark.parametrize("K", [2, 3, 4])
def test_at_policy_equal_to_reference(K: int) -> None:
    batch, outputs = one_token([0.0] * K, rewards=[0.3 * k for k in range(K)])
    assert value_of("infonca", batch, outputs, group_size=K) == pytest.approx(math.log(K))
    assert value_of("infonca", batch, outputs, group_size=K, variant="nca") == pytest.approx(2 * LOG2)
    assert value_of("plackett_luce_dpo", batch, outputs, group_size=K) == pytest.approx(math.log(math.factorial(K)))


@pytest.mark.parametrize(
    ("name", "config", "pair_loss"),
    [
        ("infonca", {"alpha": 1e-3}, "dpo"),
        ("infonca", {"alpha": 1e-3, "variant": "nca"}, "nca_pair"),
        ("plackett_luce_dpo", {}, "dpo"),
    ],
)
def test_two_answers_one_of_which_takes_all_are_a_pair(name: str, config: dict[str, Any], pair_loss: str) -> None:
    batch, outputs = answers(3, sample_mask="floats", counts=True)
    batch["rewards"] = torch.tensor([3.0, 1.0] * 6, dtype=torch.float64)
    got = value_and_gradient(registry.create(name, config), batch, outputs, LP)
    torch.testing.assert_close(got, value_and_gradient(pair_loss, batch, outputs, LP))


def test_infonca_is_least_where_the_policy_is_the_target() -> None:
    rewards = [0.5, -1.0, 2.0]
    for shift in (0.0, 7.0):
        batch, outputs = one_token([r / (0.3 * 0.2) + shift for r in rewards], rewards=rewards)
        loss = registry.create("infonca", {"group_size": 3, "alpha": 0.3, "beta": 0.2})
        value, gradient = value_and_gradient(loss, batch, outputs, LP)
        target = (torch.tensor(rewards, dtype=torch.float64) / 0.3).softmax(0)
        assert value.item() == pytest.approx(-(target * target.log()).sum().item())
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", GROUPS)
def test_answers_of_a_group_come_in_any_order(name: str) -> None:
    batch, outputs = answers(5, sample_mask="floats")
    order = torch.tensor([2, 0, 1, 3, 7, 6, 5, 4, 9, 10, 11, 8])
    loss = registry.create(name, {"group_size": 4})
    value, gradient = value_and_gradient(loss, batch, outputs, LP)
    moved = [{k: x[order] if len(x) == 12 else x for k, x in tensors.items()} for tensors in (batch, outputs)]
    got, got_gradient = value_and_gradient(loss, moved[0], moved[1], LP)
    torch.testing.assert_close(got, value)
    torch.testing.assert_close(got_gradient, gradient[order])


@pytest.mark.parametrize("name", GROUPS)
def test_contract_says_how_many_rows_belong_together(name: str) -> None:
    assert registry.create(name).contract.group_size == 2
    assert registry.create(name, {"group_size": 5}).contract.group_size == 5
    assert registry.create(name, {"group_size": 5}).contract.family == "preference"


@pytest.mark.parametrize("name", [*GROUPS, *TRIPLES])
def test_microbatches_of_whole_groups_add_up(name: str) -> None:
    batch, outputs = answers(7, sample_mask="floats", counts=True)
    config = {"group_size": 3} if name in GROUPS else {}
    parts = [
        value_of(name, rows_of(batch, i, j), rows_of(outputs, i, j), **config) for i, j in ((0, 3), (3, 9), (9, 12))
    ]
    assert sum(parts) == pytest.approx(value_of(name, batch, outputs, **config), rel=1e-12)


def test_plackett_luce_of_three() -> None:
    r = torch.tensor([[0.3, 2.0, -1.0]], dtype=torch.float64)
    rewards = torch.tensor([[1.0, 0.0, 1.0]])  # a tie: row 0 before row 2
    expected = -(0.3 - r.logsumexp(1)) - (-1.0 - math.log(math.exp(-1.0) + math.exp(2.0)))
    torch.testing.assert_close(plackett_luce(r, rewards), expected)
    far = torch.tensor([[-1e4, 1e4, 0.0]], requires_grad=True)
    plackett_luce(far, -rewards).sum().backward()
    assert far.grad is not None
    assert far.grad.isfinite().all()


def test_lipo_weighs_a_pair_by_what_exchanging_it_is_worth() -> None:
    batch, outputs = one_token([0.4, -0.6], rewards=[1.0, 0.0])
    worth = abs(1 / math.log(2) - 1 / math.log(3))
    assert value_of("lipo", batch, outputs) == pytest.approx(worth * math.log1p(math.exp(-0.1)))
    ranks = lambda_weights(torch.tensor([[0.0, 5.0, 0.0]]), torch.tensor([[0.0, 1.0, 2.0]]))
    assert ranks[0, 0, 2] == pytest.approx(
        3 * abs(1 / math.log(3) - 1 / math.log(4))
    )  # of equal scores the earlier is second
    equal, outputs = one_token([0.4, -0.6], rewards=[1.0, 1.0])
    assert value_of("lipo", equal, outputs) == 0


def test_lipo_holds_weights_constant() -> None:
    s = torch.tensor([[0.3, -0.2, 0.9]], dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[2.0, 0.0, 1.0]], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(lipo(s, labels).sum(), s)
    # What flows from j to i where i is the better of the two: sigma(s_j - s_i), times the weight.
    flow = lambda_weights(s, labels)[0] * torch.sigmoid(s - s.T).detach() * (labels < labels.T)
    torch.testing.assert_close(gradient, (flow.sum(0) - flow.sum(1)).unsqueeze(0))


@pytest.mark.parametrize("label", [61.0, 500.0, 1e30])
def test_lipo_of_an_enormous_label(label: float) -> None:
    s = torch.zeros(1, 2, requires_grad=True)
    value = lipo(s, torch.tensor([[label, 0.0]])).sum()
    value.backward()
    assert value.isfinite()
    assert torch.equal(value, lipo(s, torch.tensor([[60.0, 0.0]])).sum())
    assert s.grad is not None
    assert s.grad.isfinite().all()


def test_rrhf_of_an_order_that_is_right_only_imitates() -> None:
    batch, outputs = answers(9, sample_mask=None)
    batch["rewards"] = outputs[LP].masked_fill(batch["token_mask"][:, 1:] == 0, 0.0).sum(1)
    best = batch["rewards"].reshape(4, 3).amax(1)
    config = {"group_size": 3, "length_penalty": 0.0}
    assert value_of("rrhf", batch, outputs, **config) == pytest.approx(-best.sum().item())
    assert value_of("rrhf", batch, outputs, **config, nll_weight=0.0) == 0


def test_rrhf_is_a_sum_and_imitates_the_first_of_the_best() -> None:
    batch, outputs = answers(11, sample_mask="floats", counts=True)
    once = value_of("rrhf", batch, outputs)
    twice = [{k: torch.cat([x, x]) if x.dim() else x for k, x in tensors.items()} for tensors in (batch, outputs)]
    assert value_of("rrhf", twice[0], twice[1]) == pytest.approx(2 * once)
    batch, outputs = one_token([0.0] * 3, rewards=[0.0, 1.0, 1.0])
    _, gradient = value_and_gradient(registry.create("rrhf", {"group_size": 3}), batch, outputs, LP)
    assert gradient.flatten().tolist() == [0.0, -1.0, 0.0]
    assert rank_violations(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([[0.0, 1.0, 2.0]])).item() == 2 + 1
