"""KL estimates: what they expect to be, on their kink, and far from the reference under a clamp."""

from __future__ import annotations

import math

import pytest
import torch

from loss_reference import registry
from loss_reference.policy_gradient.kl import KL_GRADIENTS, KL_TYPES, kl_penalty, unbiased_kl
from tests.reference.cases import value_and_gradient
from tests.reference.policy_gradient.further import FIELD, KL, further_case
from tests.reference.policy_gradient.test_kl_losses import one_token


def test_the_score_function_of_k2_is_biased() -> None:
    """NeMo RL's k2: the gradient of E[w k2] is that of the KL and E[k2 grad lp] on top."""
    z = torch.tensor([0.3, -1.0, 0.5], dtype=torch.float64, requires_grad=True)
    log_pi, log_ref = z.log_softmax(0), torch.tensor([0.1, 0.4, -0.9], dtype=torch.float64).log_softmax(0)
    pi, d = log_pi.detach().exp(), log_pi.detach() - log_ref
    estimate = (pi * kl_penalty(log_pi, log_ref, "k2", "score_function")).sum()
    kl, bias = (log_pi.exp() * (log_pi - log_ref)).sum(), (pi * d.square() / 2 * log_pi).sum()
    got, exact, extra = (torch.autograd.grad(x, z, retain_graph=True)[0] for x in (estimate, kl, bias))
    torch.testing.assert_close(got, exact + extra)
    assert extra.abs().max() > 0.01


@pytest.mark.parametrize("name", [name for name in KL if name != "kl_unbiased"])
def test_at_the_reference_nothing_pulls(name: str) -> None:
    """|d| has slope 0 at 0, k1 its usual 1."""
    assert one_token(registry.create(name), 0.0) == (0.0, 1.0 if name == "kl_k1" else 0.0)


@pytest.mark.parametrize("d", [-1e4, -200.0, 200.0, 1e4])
@pytest.mark.parametrize("clamps", [{"output_clamp": 10.0}, {"input_clamp": 20.0, "output_clamp": 10.0}])
@pytest.mark.parametrize("name", KL)
def test_a_clamped_estimate_far_away_has_no_nan(name: str, clamps: dict[str, float], d: float) -> None:
    """OpenRLHF clamps k alone: of exp(200) in float32 that leaves 0 times infinity behind unless the exponent is bounded."""
    gradients = KL_GRADIENTS if "kl_gradient" in registry.create(name).contract.options else (None,)
    for kl_gradient in gradients:
        batch, outputs = further_case(31, dtype=torch.float32)
        batch["reference_policy_logprobs"] = batch["reference_policy_logprobs"] - d
        config = clamps if kl_gradient is None else {**clamps, "kl_gradient": kl_gradient}
        value, gradient = value_and_gradient(registry.create(name, config), batch, outputs, FIELD)
        assert abs(value) <= 10.0 * (1 + 1e-6)
        assert math.isfinite(value)
        assert torch.isfinite(gradient).all()
        if kl_gradient != "straight_through_k2" and name != "kl_straight_through":
            assert gradient.abs().sum() == 0


@pytest.mark.parametrize("kl_type", KL_TYPES)
def test_the_straight_through_gradient_expects_that_of_the_reverse_kl_whatever_the_value(kl_type: str) -> None:
    """Over the policy's own tokens, exact: E[d grad lp] = grad KL(pi || ref); and so does k2 with its own gradient."""
    z = torch.tensor([0.3, -1.0, 0.5, 1.1], dtype=torch.float64, requires_grad=True)
    log_pi, log_ref = z.log_softmax(0), torch.tensor([0.1, 0.4, -0.9, 0.0], dtype=torch.float64).log_softmax(0)
    pi = log_pi.detach().exp()
    exact = (log_pi.exp() * (log_pi - log_ref)).sum()
    through = (pi * kl_penalty(log_pi, log_ref, kl_type, "straight_through_k2")).sum()
    assert through.item() == pytest.approx((pi * kl_penalty(log_pi, log_ref, kl_type)).sum().item())
    torch.testing.assert_close(*(torch.autograd.grad(x, z, retain_graph=True)[0] for x in (through, exact)))


@pytest.mark.parametrize(("kl_type", "unbiased"), [("k1", True), ("k2", False), ("k3", True), ("abs", False)])
def test_which_values_expect_the_kl(kl_type: str, unbiased: bool) -> None:
    g = torch.Generator().manual_seed(7)
    log_pi, log_ref = (torch.randn(6, generator=g, dtype=torch.float64).log_softmax(0) for _ in range(2))
    estimate = (log_pi.exp() * kl_penalty(log_pi, log_ref, kl_type)).sum().item()
    exact = (log_pi.exp() * (log_pi - log_ref)).sum().item()
    assert (abs(estimate - exact) < 1e-14) == unbiased
    old = torch.randn(6, generator=g, dtype=torch.float64).log_softmax(0)
    corrected = (old.exp() * unbiased_kl(log_pi, log_ref, old, kl_type)).sum().item()
    assert corrected == pytest.approx(estimate, rel=1e-12)  # whoever drew the tokens


@pytest.mark.parametrize("name", KL)
def test_a_penalty_of_weight_0_is_none(name: str) -> None:
    batch, outputs = further_case(4, sample_mask="floats")
    batch["token_mask"][:, 2] = 1.0
    batch["reference_policy_logprobs"][:, 2] = -math.inf
    value, gradient = value_and_gradient(registry.create(name, {"coefficient": 0.0}), batch, outputs, FIELD)
    assert value == 0
    assert gradient.abs().sum() == 0


@pytest.mark.parametrize("name", ["grpo", "luspo"])
def test_a_policy_loss_with_a_penalty_of_weight_0_does_not_look_at_the_reference(name: str) -> None:
    batch, outputs = further_case(5, sample_mask="floats")
    batch["reference_policy_logprobs"] = torch.full_like(batch["reference_policy_logprobs"], math.nan)
    loss = registry.create(name, {"reference_policy_kl_penalty": 0.0})
    value, gradient = value_and_gradient(loss, batch, outputs, FIELD)
    assert math.isfinite(value)
    assert torch.isfinite(gradient).all()
