"""The KL estimators, and the gradients they can be given."""

from __future__ import annotations

import math

import pytest
import torch

from loss_reference.policy_gradient.kl import ESTIMATORS, KL_GRADIENTS, KL_TYPES, kl_penalty
from loss_reference.policy_gradient.ratio import MAX_LOG_RATIO


def value_and_slope(
    d: float, kl_type: str, kl_gradient: str = "pathwise", dtype: torch.dtype = torch.float64
) -> tuple[float, float]:
    lp = torch.tensor(d, dtype=dtype, requires_grad=True)
    k = kl_penalty(lp, torch.zeros((), dtype=dtype), kl_type, kl_gradient)
    return k.item(), torch.autograd.grad(k, lp)[0].item()


# By hand at d = log 2: e^-d = 1/2.
LOG2 = math.log(2)
VALUES = {"k1": LOG2, "k2": LOG2**2 / 2, "k3": LOG2 - 0.5, "abs": LOG2}
SLOPES = {
    ("k1", "pathwise"): 1,
    ("k2", "pathwise"): LOG2,
    ("k3", "pathwise"): 0.5,
    ("abs", "pathwise"): 1,
    ("k1", "score_function"): 1 + LOG2,
    ("k2", "score_function"): LOG2 + LOG2**2 / 2,
    ("k3", "score_function"): LOG2,
    ("abs", "score_function"): 1 + LOG2,
    **{(kl_type, "straight_through_k2"): LOG2 for kl_type in KL_TYPES},
}


@pytest.mark.parametrize(("kl_type", "kl_gradient"), SLOPES)
def test_by_hand(kl_type: str, kl_gradient: str) -> None:
    assert value_and_slope(LOG2, kl_type, kl_gradient) == pytest.approx((VALUES[kl_type], SLOPES[kl_type, kl_gradient]))


@pytest.mark.parametrize("d", [-3.0, -0.5, 0.7, 2.0])
@pytest.mark.parametrize("kl_type", KL_TYPES)
def test_score_function_is_the_gradient_of_the_reweighted_estimator(kl_type: str, d: float) -> None:
    lp = torch.tensor(d, dtype=torch.float64, requires_grad=True)
    reweighted = (lp - lp.detach()).exp() * ESTIMATORS[kl_type](lp)
    (expected,) = torch.autograd.grad(reweighted, lp)
    assert value_and_slope(d, kl_type, "score_function") == pytest.approx((reweighted.item(), expected.item()))


@pytest.mark.parametrize("kl_gradient", KL_GRADIENTS)
@pytest.mark.parametrize("kl_type", ["k2", "k3"])
def test_zero_with_zero_gradient_at_equality(kl_type: str, kl_gradient: str) -> None:
    assert value_and_slope(0.0, kl_type, kl_gradient) == (0, 0)


@pytest.mark.parametrize("kl_type", ["k2", "k3", "abs"])
def test_at_least_zero(kl_type: str) -> None:
    d = torch.cat([torch.logspace(-12, 3, 300), -torch.logspace(-12, 3, 300)])
    assert (ESTIMATORS[kl_type](d) >= 0).all()


@pytest.mark.parametrize(("kl_type", "expectation"), [("k1", "zero"), ("k2", "reverse"), ("k3", "forward")])
def test_expected_pathwise_gradient(kl_type: str, expectation: str) -> None:
    """E_pi[dk/dlp grad lp] is 0, grad KL(pi || ref) or grad KL(ref || pi)."""
    z = torch.tensor([0.3, -1.0, 0.5], dtype=torch.float64, requires_grad=True)
    log_pi, log_ref = z.log_softmax(0), torch.tensor([0.1, 0.4, -0.9], dtype=torch.float64).log_softmax(0)
    estimate = (log_pi.detach().exp() * kl_penalty(log_pi, log_ref, kl_type)).sum()
    exact = {
        "zero": 0 * z.sum(),
        "reverse": (log_pi.exp() * (log_pi - log_ref)).sum(),
        "forward": (log_ref.exp() * (log_ref - log_pi)).sum(),
    }[expectation]
    torch.testing.assert_close(*(torch.autograd.grad(x, z, retain_graph=True)[0] for x in (estimate, exact)))


@pytest.mark.parametrize("kl_type", ["k1", "k3"])
def test_score_function_expects_the_reverse_kl_gradient(kl_type: str) -> None:
    z = torch.tensor([0.3, -1.0, 0.5], dtype=torch.float64, requires_grad=True)
    log_pi, log_ref = z.log_softmax(0), torch.tensor([0.1, 0.4, -0.9], dtype=torch.float64).log_softmax(0)
    estimate = (log_pi.detach().exp() * kl_penalty(log_pi, log_ref, kl_type, "score_function")).sum()
    exact = (log_pi.exp() * (log_pi - log_ref)).sum()
    torch.testing.assert_close(*(torch.autograd.grad(x, z, retain_graph=True)[0] for x in (estimate, exact)))


@pytest.mark.parametrize("kl_gradient", KL_GRADIENTS)
@pytest.mark.parametrize("kl_type", KL_TYPES)
@pytest.mark.parametrize("d", [-1e4, -200.0, -89.0, 89.0, 200.0, 1e4])
def test_finite_far_from_the_reference_in_float32(d: float, kl_type: str, kl_gradient: str) -> None:
    assert all(map(math.isfinite, value_and_slope(d, kl_type, kl_gradient, torch.float32)))


def test_k3_saturates_beyond_the_bound() -> None:
    assert value_and_slope(-200.0, "k3") == pytest.approx((math.exp(MAX_LOG_RATIO), 0), rel=1e-12)
    assert value_and_slope(-60.0, "k3") == pytest.approx((math.exp(60), -math.exp(60)), rel=1e-12)


def test_k3_keeps_its_precision_near_equality() -> None:
    d = 1e-4
    assert value_and_slope(d, "k3")[0] == pytest.approx(d**2 / 2 - d**3 / 6, rel=1e-7)


def test_the_reference_is_constant() -> None:
    lp_ref = torch.zeros(3, requires_grad=True)
    kl_penalty(torch.ones(3, requires_grad=True), lp_ref).sum().backward()  # type: ignore[no-untyped-call]
    assert lp_ref.grad is None
