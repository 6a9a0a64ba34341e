"""Contrastive losses beside DPO, at extreme similarities, on their kinks, and as their infimum is approached."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from loss_reference import ContrastiveLoss, DPOLoss, InfoNCELoss, registry
from loss_reference.contrastive.distances import triplet_margin
from loss_reference.contrastive.infonce import infonce
from loss_reference.contrastive.pair_weighting import circle, multi_similarity
from loss_reference.contrastive.pairwise import pairwise_contrastive
from loss_reference.contrastive.softmax_over_batch import ntxent, supcon
from tests.reference.cases import value_and_gradient

G = torch.Generator().manual_seed(9)
# Similarities of four rows, two of each label.
SAME = torch.eye(4, dtype=torch.bool)
POSITIVE = torch.tensor([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]], dtype=torch.bool)
NEGATIVE = ~(POSITIVE | SAME)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_pairwise_is_dpo_of_the_similarities(temperature: float) -> None:
    """beta Delta = (p - n) / t: the log-ratios of a pair of one-token answers are its similarities, the reference is 0."""
    s_pos, s_neg = torch.randn(2, 6, generator=G, dtype=torch.float64)
    lp = torch.stack([s_pos, s_neg], dim=1).reshape(12, 1)
    batch = {
        "token_mask": torch.ones(12, 2, dtype=torch.float64),
        "reference_policy_logprobs": torch.zeros(12, 2, dtype=torch.float64),
    }
    loss = DPOLoss({"beta": 1 / temperature})
    value, gradient = value_and_gradient(loss, batch, {"next_token_logprobs": lp}, "next_token_logprobs")
    both = torch.stack([s_pos, s_neg]).requires_grad_()
    expected = pairwise_contrastive(*both, temperature).mean()
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(gradient.reshape(6, 2).T, torch.autograd.grad(expected, both)[0])


class Given(ContrastiveLoss):
    """The similarity of rows i and j is entry (i, j) of what stands for the embeddings."""

    def compute_similarity(self, pairs: Tensor, model_outputs: Mapping[str, Tensor]) -> Tensor:
        return model_outputs["embeddings"][pairs[:, 0], pairs[:, 1]]


class GivenInfoNCE(InfoNCELoss):
    """The same of InfoNCE."""

    compute_similarity = Given.compute_similarity


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("s_pos", "s_neg", "expected", "slope"),
    [
        (1e4, 1e4, math.log(2), 5.0),  # both exponentials overflow
        (-1e4, -1e4, math.log(2), 5.0),  # both underflow: 0 / 0
        (1e4, -1e4, 0.0, 0.0),
        (-1e4, 1e4, 2e5, 10.0),  # the logarithm of 0
        (8.875, 8.875, math.log(2), 5.0),  # e^(s / t) is beyond float32 from here on
    ],
)
@pytest.mark.parametrize("cls", [Given, GivenInfoNCE])
def test_no_exponential_of_a_similarity_is_taken(
    cls: type[ContrastiveLoss], s_pos: float, s_neg: float, expected: float, slope: float, dtype: torch.dtype
) -> None:
    """-log(e^(p/t) / (e^(p/t) + e^(n/t))) as the guide writes it is NaN or infinite at each of these."""
    s = torch.tensor([[0.0, s_pos, s_neg]] * 3, dtype=dtype)
    s_pos, s_neg = s[0, 1].item(), s[0, 2].item()  # as far as the format holds them
    batch = {"positive_pairs": torch.tensor([[0, 1]]), "negative_pairs": torch.tensor([[0, 2]])}
    value, gradient = value_and_gradient(cls({"temperature": 0.1}), batch, {"embeddings": s}, "embeddings")
    assert value.item() == pytest.approx(expected if expected < 1e5 else (s_neg - s_pos) / 0.1, rel=1e-6)
    eps = torch.finfo(dtype).eps
    assert gradient[0].tolist() == pytest.approx([0.0, -slope, slope], rel=2 * eps)


@pytest.mark.parametrize("K", [1, 2, 7])
def test_infonce_of_equals_and_of_one_more_negative(K: int) -> None:
    """log(1 + K) at equal similarities; another negative never lowers a term, and raises it by what it weighs."""
    s_pos, s_neg = torch.randn(5, generator=G).double(), torch.randn(K + 1, generator=G).double()
    everyone = torch.ones(5, K + 1, dtype=torch.bool)
    fewer = everyone.clone()
    fewer[:, K] = False
    equal = infonce(torch.zeros(5), torch.zeros(K + 1), fewer, 0.3)
    torch.testing.assert_close(equal, torch.full((5,), math.log(1 + K)))
    more, less = infonce(s_pos, s_neg, everyone, 0.3), infonce(s_pos, s_neg, fewer, 0.3)
    weight = (s_neg[K] / 0.3).exp() / (torch.cat([s_pos[:, None], s_neg[:K].expand(5, K)], dim=1) / 0.3).exp().sum(1)
    assert (more > less).all()
    torch.testing.assert_close(more - less, weight.log1p())


@pytest.mark.parametrize("term", ["infonce", "ntxent", "supcon", "pairwise"])
def test_temperature_is_the_unit_of_similarity_and_its_zero_is_free(term: str) -> None:
    s = torch.randn(4, 4, generator=G, dtype=torch.float64)

    def of(s: Tensor, t: float) -> Tensor:
        if term == "infonce":
            return infonce(s[:, 0], s[0, 1:], torch.ones(4, 3, dtype=torch.bool), t)
        if term == "pairwise":
            return pairwise_contrastive(s[:, 0], s[:, 1], t)
        return ntxent(s, NEGATIVE, t)[POSITIVE] if term == "ntxent" else supcon(s, POSITIVE, NEGATIVE, t)

    torch.testing.assert_close(of(4 * s, 2.0), of(s, 0.5))
    torch.testing.assert_close(of(s + 30, 0.5), of(s, 0.5))


def test_kinks_have_slope_0() -> None:
    """A triplet exactly at its margin, and pairs exactly at theirs; one step inside the slope is 1."""
    d_ap, d_an = torch.tensor([0.5, 0.5625]).requires_grad_(), torch.tensor([1.0, 1.0]).requires_grad_()
    terms = triplet_margin(d_ap, d_an, 0.5)
    assert terms.tolist() == [0, 0.0625]
    assert [g.tolist() for g in torch.autograd.grad(terms.sum(), (d_ap, d_an))] == [[0, 1], [0, -1]]
    e = torch.tensor([[0.0], [0.5], [2.0]])
    batch = {"positive_pairs": torch.tensor([[0, 1]]), "negative_pairs": torch.tensor([[0, 2]])}
    margins = {"positive_margin": 0.5, "negative_margin": 2.0}
    for squared in (False, True):
        loss = registry.create("margin_contrastive", {**margins, "squared": squared})
        value, gradient = value_and_gradient(loss, batch, {"embeddings": e}, "embeddings")
        assert value == 0
        assert gradient.abs().sum() == 0
        assert value_and_gradient(loss, batch, {"embeddings": 1.25 * e}, "embeddings")[0] > 0  # the positive is too far
        assert value_and_gradient(loss, batch, {"embeddings": 0.75 * e}, "embeddings")[0] > 0  # the negative too near


def test_the_soft_triplet_is_the_smooth_bound_of_the_hard_one() -> None:
    """0 <= softplus(x) - max(0, x) <= log 2, the most at x = 0."""
    x = torch.linspace(-30, 30, 601, dtype=torch.float64)
    gap = triplet_margin(x, torch.zeros_like(x), soft=True) - triplet_margin(x, torch.zeros_like(x), 0.0)
    assert (gap >= 0).all()
    assert gap.argmax() == 300
    assert gap[300].item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("name", ["ntxent", "supcon", "circle", "multi_similarity"])
def test_separated_labels_approach_the_infimum(name: str) -> None:
    """One positive for each anchor: 0. Sharper temperatures and weights come nearer to it."""
    s = torch.where(NEGATIVE, -0.9, 0.9).double()
    terms: dict[str, Any] = {
        "ntxent": lambda sharp: ntxent(s, NEGATIVE, 1 / sharp)[POSITIVE],
        "supcon": lambda sharp: supcon(s, POSITIVE, NEGATIVE, 1 / sharp),
        "circle": lambda sharp: circle(s, POSITIVE, NEGATIVE, sharp),
        "multi_similarity": lambda sharp: multi_similarity(s, POSITIVE, NEGATIVE, sharp, sharp),
    }
    values = [terms[name](sharp).mean().item() for sharp in (1.0, 4.0, 16.0, 64.0)]
    assert values == sorted(values, reverse=True)
    assert 0 <= values[-1] < 1e-2
    assert values[0] > 0.05


@pytest.mark.parametrize("name", ["clip_symmetric", "siglip"])
def test_views_that_match_approach_0(name: str) -> None:
    views = {"image_embeddings": torch.eye(4).double(), "text_embeddings": 3 * torch.eye(4).double()}
    if name == "clip_symmetric":
        sharp = [registry.create(name, {"temperature": t}) for t in (1.0, 0.1, 0.01)]
    else:
        sharp = [registry.create(name) for _ in range(3)]
        with torch.no_grad():
            for loss, scale in zip(sharp, (2.0, 20.0, 200.0), strict=True):
                loss.log_scale.fill_(math.log(scale))
                loss.bias.fill_(-scale / 2)
    values = [loss.compute_loss({}, views).item() for loss in sharp]
    assert values == sorted(values, reverse=True)
    assert 0 <= values[-1] < 1e-12
    assert values[0] > 0.5


@pytest.mark.parametrize("rows", [0, 1])
@pytest.mark.parametrize("name", ["ntxent", "supcon", "circle", "multi_similarity", "clip_symmetric", "n_pairs"])
def test_a_row_alone_has_no_rival(name: str, rows: int) -> None:
    """A softmax over one is 1, and an anchor without others is no term: 0 with the graph attached."""
    views = {"clip_symmetric": ("image", "text"), "n_pairs": ("anchor", "positive")}.get(name)
    fields = ("embeddings",) if views is None else tuple(f"{view}_embeddings" for view in views)
    outputs = {field: torch.randn(rows, 3, generator=G, dtype=torch.float64) for field in fields}
    for field in fields:
        value, gradient = value_and_gradient(name, {"labels": torch.zeros(rows)}, outputs, field)
        assert value == 0
        assert gradient.abs().sum() == 0
