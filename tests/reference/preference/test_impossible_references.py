"""An answer the reference cannot give, or the policy cannot: limits of losses with a state, a blend or a softmax of scores."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from loss_reference import registry
from loss_reference.log_sums import logsumexp_where
from loss_reference.plackett_luce import plackett_luce
from tests.reference.cases import Tensors, value_and_gradient
from tests.reference.preference.answers import one_token

LP, REF = "next_token_logprobs", "reference_policy_logprobs"
FAR = -1e9
NAMES = (
    *("dpo", "discopop", "aot", "exo_pair", "nca_pair", "bco_pair", "apo_zero", "apo_down", "online_dpo"),
    *("plackett_luce_dpo", "lipo", "infonca", "kto", "fdpo_js", "dpo_norm"),
)


def two_answers(side: str, impossible: int, p: float) -> tuple[Tensors, Tensors]:
    """Return one pair, the better answer first; one log-probability of the policy or of the reference is ``p``."""
    batch, outputs = one_token([0.4, 0.1], rewards=[1.0, 0.0], labels=[1.0, 0.0], kl_reference_point=0.1)
    if side == "policy":
        outputs[LP][impossible] = p
    else:
        batch[REF][impossible, 1] = p
    return batch, outputs


@pytest.mark.parametrize("impossible", [0, 1])
@pytest.mark.parametrize("side", ["policy", "reference"])
@pytest.mark.parametrize("name", NAMES)
def test_value_and_gradient_are_those_far_out(name: str, side: str, impossible: int) -> None:
    value, gradient = value_and_gradient(name, *two_answers(side, impossible, -math.inf), LP)
    expected, slope = value_and_gradient(name, *two_answers(side, impossible, FAR), LP)
    torch.testing.assert_close(gradient, slope, rtol=1e-14, atol=1e-300)
    if value.isinf():
        assert expected * value.sign() > 1e6
    else:
        torch.testing.assert_close(value, expected, rtol=1e-14, atol=1e-300)


@pytest.mark.parametrize("tau", [0.05, 0.9, 1.0])
def test_discopop_of_a_chosen_answer_that_cannot_be(tau: float) -> None:
    loss = registry.create("discopop", {"tau": tau})
    value, gradient = value_and_gradient(loss, *two_answers("policy", 0, -math.inf), LP)
    assert value == math.inf
    torch.testing.assert_close(gradient, torch.tensor([[-0.1], [0.1]], dtype=torch.float64))


FOUR: list[tuple[str, dict[str, Any], str]] = [
    ("bco", {}, "reward_mean"),
    ("beta_dpo", {}, "gap_mean"),
    ("beta_dpo", {"a": 0.0}, "gap_mean"),
]


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("side", ["policy", "reference"])
@pytest.mark.parametrize(("name", "config", "state"), FOUR, ids=str)
def test_a_running_mean_outlives_an_impossible_answer(
    name: str, config: dict[str, Any], state: str, side: str, both: bool
) -> None:
    """It is of the other answers: those with a number. Otherwise every later batch would be infinite, or NaN."""
    labels = {"labels": [1.0, 0.0, 1.0, 0.0]}
    batch, outputs = one_token([0.4, 0.1, 0.3, -0.2], **labels)
    if side == "policy" or both:
        outputs[LP][1] = -math.inf
    if side == "reference" or both:
        batch[REF][1, 1] = -math.inf
    spoilt, usual = registry.create(name, config), registry.create(name, config)
    value, gradient = value_and_gradient(spoilt, batch, outputs, LP)
    alone = {key: x[2:] for key, x in batch.items()}, {LP: outputs[LP][2:]}
    if name == "bco":
        alone = {key: x[[0, 2, 3]] for key, x in batch.items()}, {LP: outputs[LP][[0, 2, 3]]}
    _, slope = value_and_gradient(usual, *alone, LP)
    assert spoilt.state_dict()[state] == usual.state_dict()[state]
    if not both:  # with both there is no log-ratio at all
        assert not value.isnan()
        assert gradient.isfinite().all()
        others = gradient[[0, 2, 3]] if name == "bco" else gradient[2:]
        torch.testing.assert_close(others * (4 / 3 if name == "bco" else 2), slope)
    later = one_token([0.2, 0.1], labels=[1.0, 0.0])
    assert torch.equal(value_and_gradient(spoilt, *later, LP)[0], value_and_gradient(usual, *later, LP)[0])


@pytest.mark.parametrize("impossible", [0, 1])
@pytest.mark.parametrize("side", ["policy", "reference"])
def test_nash_md_has_no_nan(side: str, impossible: int) -> None:
    batch, outputs = two_answers(side, impossible, -math.inf)
    batch["preference_probability"] = torch.tensor([0.7, 0.7], dtype=torch.float64)
    value, gradient = value_and_gradient("nash_md", batch, outputs, LP)
    sign = 1 if side == "policy" else -1
    assert value == sign * math.inf
    assert gradient[impossible] == -sign * math.inf
    assert gradient[1 - impossible].isfinite()


@pytest.mark.parametrize(
    "scores", [[math.inf, 1.0, 0.0], [1.0, math.inf, 0.0], [0.0, 1.0, math.inf], [2.0, 1.0, -math.inf]]
)
def test_a_ranking_by_an_infinite_score(scores: list[float]) -> None:
    found = []
    for far in (1e6, 1e9):
        r = torch.tensor([scores], dtype=torch.float64).nan_to_num(posinf=far, neginf=-far).requires_grad_()
        found.append(torch.autograd.grad(plackett_luce(r, torch.tensor([[3.0, 2.0, 1.0]])).sum(), r)[0])
    r = torch.tensor([scores], dtype=torch.float64, requires_grad=True)
    value = plackett_luce(r, torch.tensor([[3.0, 2.0, 1.0]]))
    (gradient,) = torch.autograd.grad(value.sum(), r)
    assert torch.equal(found[0], found[1])
    torch.testing.assert_close(gradient, found[0])
    assert value.isinf() == (scores.index(max(scores)) > 0)


def test_two_infinite_scores_have_no_order() -> None:
    r = torch.tensor([[math.inf, math.inf]])
    assert plackett_luce(r, torch.tensor([[1.0, 0.0]])).isnan()


def test_a_sum_of_exponentials_with_an_infinite_one() -> None:
    x = torch.tensor([[math.inf, 1.0, 2.0], [1.0, math.nan, 2.0]], requires_grad=True)
    counted = torch.tensor([[True, True, False], [True, False, True]])
    got = logsumexp_where(x, counted)
    (gradient,) = torch.autograd.grad(got.sum(), x)
    assert got[0] == math.inf
    assert gradient[0].tolist() == [1.0, 0.0, 0.0]
    assert got[1].isfinite()
    assert gradient[1, 1] == 0
    assert logsumexp_where(x, ~counted | True)[1].isnan()  # nothing hides what is counted and is no number
