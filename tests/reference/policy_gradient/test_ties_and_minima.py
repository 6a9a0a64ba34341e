"""Policy-gradient losses exactly on a bound, at their smallest value, and where nothing but a neutral point is left."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from loss_reference import A2POLoss, GSPOLoss, PPOClipLoss, PPODualClipLoss, VAPONLLLoss, registry
from loss_reference.policy_gradient.correction import divergence_kept, icepop_weight, off_policy_kept, seq_mask_weight
from loss_reference.policy_gradient.kl import ESTIMATORS
from loss_reference.policy_gradient.ppo_clip import ppo_clip
from loss_reference.policy_gradient.ppo_variants import two_sided_clip
from tests.reference.cases import value_and_gradient
from tests.reference.policy_gradient.further import FIELD, further_case
from tests.reference.policy_gradient.test_kl_losses import one_token


@pytest.mark.parametrize("clip_c", [1.125, 1.25, 3.0])
@pytest.mark.parametrize("term", [ppo_clip, two_sided_clip])
def test_on_the_bound_of_the_dual_clip_the_gradient_is_whole(term: Any, clip_c: float) -> None:
    """At rho = c, beyond it and below it, with A < 0 and 1 + e_h = 1.25 above, at or below c; all of it is exact."""
    if term is two_sided_clip and clip_c < 1.25:
        pytest.skip("there the ratio alone is cut off, and the clip holds the term")
    rho = torch.tensor([clip_c, clip_c + 0.125, clip_c - 0.0625], dtype=torch.float64, requires_grad=True)
    A = torch.full((3,), -2.0, dtype=torch.float64)
    value = term(rho, A, 0.25, 0.25, clip_c)
    assert value.tolist() == [2 * clip_c, 2 * clip_c, 2 * (clip_c - 0.0625)]
    assert torch.autograd.grad(value.sum(), rho)[0].tolist() == [2, 0, 2]


def test_the_delta_of_trl_is_dual_clip_from_the_upper_bound_on() -> None:
    """delta = 1 + e_h itself still is, of either sign of A; the ratios include both bounds."""
    rho = torch.tensor([0.5, 0.75, 1.0, 1.125, 1.25, 1.5, 4.0], dtype=torch.float64, requires_grad=True)
    for A in (-2.0, 2.0):
        both = [term(rho, torch.full((7,), A).double(), 0.25, 0.25, 1.25) for term in (ppo_clip, two_sided_clip)]
        assert torch.equal(*both)
        assert torch.equal(*(torch.autograd.grad(term.sum(), rho)[0] for term in both))


def test_no_room_at_all_still_lets_the_on_policy_gradient_through() -> None:
    """e_l = e_h = 0 at rho = 1: both branches are on the bound."""
    batch, outputs = further_case(1, sample_mask="floats")
    outputs[FIELD] = batch["prev_logprobs"][:, 1:].clone()
    m = batch["token_mask"][:, 1:] * batch["sample_mask"][:, None]
    for cls in (PPOClipLoss, PPODualClipLoss):
        _, gradient = value_and_gradient(cls({"ratio_clip_min": 0.0, "ratio_clip_max": 0.0}), batch, outputs, FIELD)
        torch.testing.assert_close(gradient, -batch["advantages"][:, 1:] * m / m.sum())


def test_gspo_with_one_advantage_per_answer_is_a_mean_over_answers() -> None:
    """However long they are: L = (1 / S) sum_b max(-A_b s_b, -A_b clip(s_b))."""
    batch, outputs = further_case(2, rows=6, width=9, sample_mask="floats")
    A = batch["advantages"][:, 3]
    batch["advantages"] = A[:, None].expand(6, 9)
    m, w = batch["token_mask"][:, 1:], batch["sample_mask"]
    n = m.sum(dim=1)
    delta = outputs[FIELD] - batch["prev_logprobs"][:, 1:]
    s = ((m * delta).sum(dim=1) / n.clamp(min=1)).exp()
    terms = torch.maximum(-A * s, -A * s.clamp(0.9, 1.2)) * (n > 0)
    got = GSPOLoss({"ratio_clip_min": 0.1, "ratio_clip_max": 0.2}).compute_loss(batch, outputs)
    assert len(set(n.tolist())) > 3
    torch.testing.assert_close(got, (w * terms).sum() / w.sum())


def test_the_squared_regret_of_a2po_reaches_0_where_the_policy_is_optimal() -> None:
    """beta h_b = r_b - V*_b: value and gradient are 0, and larger on either side."""
    batch, outputs = further_case(3, sample_mask=None)
    batch["token_mask"][0, 1] = 1.0  # every row has a token
    m, beta = batch["token_mask"][:, 1:], 0.5
    wanted = (batch["rewards"] - batch["v_star"]) / beta
    reference = outputs[FIELD] - wanted[:, None] / m.sum(dim=1, keepdim=True)
    batch["reference_policy_logprobs"] = torch.cat([torch.zeros(4, 1, dtype=torch.float64), reference], dim=1)
    loss = A2POLoss({"beta": beta})
    value, gradient = value_and_gradient(loss, batch, outputs, FIELD)
    assert value.item() < 1e-28
    assert gradient.abs().max() < 1e-14
    for step in (-0.01, 0.01):
        assert value_and_gradient(loss, batch, {FIELD: outputs[FIELD] + step}, FIELD)[0] > 1e-6


@pytest.mark.parametrize("kl_type", ["k2", "k3", "abs"])
@pytest.mark.parametrize("d", [-30.0, -1.0, -1e-5, 1e-5, 1.0, 30.0])
def test_an_estimate_is_0_at_equality_alone(kl_type: str, d: float) -> None:
    assert ESTIMATORS[kl_type](torch.tensor(d, dtype=torch.float64)) > 0
    assert ESTIMATORS[kl_type](torch.zeros((), dtype=torch.float64)) == 0


@pytest.mark.parametrize("delta", [-2.0, 0.0, 1.5])
@pytest.mark.parametrize(("kl_type", "slope"), [("k1", 1.0), ("k2", 0.0), ("k3", 0.0), ("abs", 0.0)])
def test_the_unbiased_estimate_at_the_reference(kl_type: str, slope: float, delta: float) -> None:
    """Whatever rho is: k = 0 leaves rho dk/dd."""
    loss = registry.create("kl_unbiased", {"kl_type": kl_type})
    assert one_token(loss, 0.0, delta) == pytest.approx((0.0, math.exp(delta) * slope))


def test_a_bound_of_a_correction_belongs_to_what_is_kept() -> None:
    """Ratios 1/2, 1 and 2 and drifts of exactly the threshold: exact in binary."""
    one, zero = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    A = -one
    assert off_policy_kept(zero, A, one, 0.0) == 1  # not *above* the threshold
    assert off_policy_kept(0.25 * one, A, one, 0.25) == 1
    assert off_policy_kept(0.2500001 * one, A, one, 0.25) == 0
    assert off_policy_kept(9 * one, one, one, 0.25) == 1  # good answers stay
    assert icepop_weight(zero, 1.0, 1.0) == 1
    assert seq_mask_weight(zero, 1.0, 1.0) == 1
    assert divergence_kept(zero, one, "k1", "seq_mean", 1.0, 1.0) == 1
    assert divergence_kept(one, one, "k2", "token", 0.5, 0.0) == 1


@pytest.mark.parametrize("rewards", [[0.0, 0.0, 0.0, 0.0], [-1.0, -2.0, 0.0, -0.5]])
def test_vapo_without_a_correct_answer_is_0_with_the_graph_attached(rewards: list[float]) -> None:
    batch, outputs = further_case(4)
    batch["rewards"] = torch.tensor(rewards, dtype=torch.float64)
    value, gradient = value_and_gradient(VAPONLLLoss(), batch, outputs, FIELD)
    assert value == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))
