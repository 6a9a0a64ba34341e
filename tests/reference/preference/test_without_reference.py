"""Losses that know no reference: answers of any length that are equally likely, and one constant more in all of them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from loss_reference import registry
from tests.reference.cases import Tensors, value_and_gradient

Config = dict[str, Any]
LP = "next_token_logprobs"
LOG2 = math.log(2)
LENGTHS = [1, 5, 3, 2, 4, 4, 2, 3, 5, 1, 2, 4]
MEANS = ("simpo", "orpo", "alphapo", "tpo_l")
TRIPLES = ("tpo", "tpo_l")


def answers_of(totals: Tensor, mean: bool) -> tuple[Tensors, Tensors]:
    """Return 12 answers of ``LENGTHS`` tokens, of uneven log-probabilities with these means, or these sums."""
    g = torch.Generator().manual_seed(5)
    mask = (torch.arange(6) >= 1) & (torch.arange(6) <= torch.tensor(LENGTHS)[:, None])
    n = torch.tensor(LENGTHS, dtype=torch.float64)
    uneven = torch.rand(12, 5, generator=g, dtype=torch.float64) * mask[:, 1:]
    wanted = totals * n if mean else totals
    lp = uneven - ((uneven.sum(1) - wanted) / n)[:, None]
    lp = lp.masked_fill(~mask[:, 1:], math.nan)
    return {"token_mask": mask.double(), "input_ids": torch.zeros(12, 6, dtype=torch.long)}, {LP: lp}


def value_of(name: str, config: Config, batch: Tensors, outputs: Tensors) -> Tensor:
    return value_and_gradient(registry.create(name, config), batch, outputs, LP)[0]


@pytest.mark.parametrize(
    ("name", "config", "preference", "imitation"),
    [
        ("simpo", {"gamma": 0.8}, math.log1p(math.exp(0.8)), 0.0),
        ("simpo", {"gamma": 0.8, "nll_weight": 0.3}, math.log1p(math.exp(0.8)), 0.3),
        ("alphapo", {"gamma": 0.8, "alpha": 2.0}, math.log1p(math.exp(0.8)), 0.0),
        ("orpo", {"beta": 0.4}, 0.4 * LOG2, 1.0),
        ("tpo_l", {"gamma": 0.8, "tpo_alpha": 0.3}, math.log1p(math.exp(0.8)), 0.3),
        ("cpo", {"alpha": 0.0}, LOG2, 0.0),
        ("cpo", {"alpha": 0.0, "loss_type": "hinge"}, 1.0, 0.0),
        ("cpo", {"alpha": 0.3, "nll_average": "sum"}, LOG2, 0.3),
        ("tpo", {"tpo_alpha": 0.0}, LOG2, 0.0),
        ("slic_hf", {"delta": 1.7}, 1.7, 0.0),
        ("slic_hf", {"delta": 1.7, "lambda_": 0.3}, 1.7, 0.3),
    ],
    ids=str,
)
def test_equally_likely_answers_of_any_length(name: str, config: Config, preference: float, imitation: float) -> None:
    together = 3 if name in TRIPLES or "lambda_" in config else 2
    per_group = -torch.linspace(0.4, 2.0, 12 // together, dtype=torch.float64)
    batch, outputs = answers_of(per_group.repeat_interleave(together), name in MEANS)
    assert value_of(name, config, batch, outputs).item() == pytest.approx(
        preference - imitation * per_group.mean().item(), rel=1e-13
    )


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("simpo", {}),
        ("simpo", {"label_smoothing": 0.2}),
        ("cpo", {"alpha": 0.0}),
        ("cpo", {"alpha": 0.0, "loss_type": "hinge", "beta": 0.7}),
        ("slic_hf", {}),
        ("tpo", {"tpo_alpha": 0.0}),
        ("tpo_l", {"tpo_alpha": 0.0}),
    ],
    ids=str,
)
def test_only_differences_count(name: str, config: Config) -> None:
    together = 3 if name in TRIPLES else 2
    scores = -torch.rand(12, generator=torch.Generator().manual_seed(7), dtype=torch.float64) * 3 - 2
    per_group = torch.linspace(-1.5, 1.5, 12 // together, dtype=torch.float64).repeat_interleave(together)
    value, moved = (value_of(name, config, *answers_of(x, name in MEANS)) for x in (scores, scores + per_group))
    torch.testing.assert_close(moved, value, rtol=1e-12, atol=0)
    uneven = value_of(name, config, *answers_of(scores + torch.linspace(-1, 1, 12).double(), name in MEANS))
    assert uneven.item() != pytest.approx(value.item(), rel=1e-6)


@pytest.mark.parametrize("name", ["orpo", "alphapo"])
def test_the_level_counts(name: str) -> None:
    scores = torch.tensor([-0.7, -1.2] * 6, dtype=torch.float64)
    value, moved = (value_of(name, {}, *answers_of(x, True)) for x in (scores, scores - 1.0))
    assert moved.item() - (1.0 if name == "orpo" else 0.0) != pytest.approx(value.item(), rel=1e-4)


def test_slic_hf_is_a_hinge_of_sums_beside_the_nll_of_its_target() -> None:
    scores = -torch.rand(12, generator=torch.Generator().manual_seed(9), dtype=torch.float64) * 3 - 0.5
    batch, outputs = answers_of(scores, False)
    w, rejected, target = scores.reshape(4, 3).unbind(1)
    expected = (F.relu(0.9 - w + rejected) - 2.0 * target).mean()
    torch.testing.assert_close(value_of("slic_hf", {"delta": 0.9, "lambda_": 2.0}, batch, outputs), expected)
