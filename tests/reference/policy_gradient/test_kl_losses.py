"""The KL losses K1 to K6: values, gradients and clamps of the libraries, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from loss_reference import (
    ConfigError,
    GRPOLoss,
    KLK3Loss,
    KLStraightThroughLoss,
    KLUnbiasedLoss,
    LossFunction,
    registry,
)
from loss_reference.policy_gradient.kl import KL_GRADIENTS, KL_TYPES
from tests.reference.cases import value_and_gradient
from tests.reference.policy_gradient.further import FIELD, KL, further_case

LOG2 = math.log(2)


def one_token(loss: LossFunction, d: float, delta: float = 0.0) -> tuple[float, float]:
    """Return value and gradient at lp - lp_ref = d, lp - lp_old = delta."""
    batch = {
        "token_mask": torch.ones(1, 2),
        "reference_policy_logprobs": torch.tensor([[math.nan, -9 - d]], dtype=torch.float64),
        "prev_logprobs": torch.tensor([[math.nan, -9 - delta]], dtype=torch.float64),
    }
    value, gradient = value_and_gradient(loss, batch, {FIELD: torch.tensor([[-9.0]], dtype=torch.float64)}, FIELD)
    return value.item(), gradient.item()


VALUES = {"kl_k1": LOG2, "kl_k2": LOG2**2 / 2, "kl_k3": LOG2 - 0.5, "kl_abs": LOG2}
PATHWISE = {"kl_k1": 1, "kl_k2": LOG2, "kl_k3": 0.5, "kl_abs": 1}
SCORE = {"kl_k1": 1 + LOG2, "kl_k2": LOG2 + LOG2**2 / 2, "kl_k3": LOG2, "kl_abs": 1 + LOG2}


@pytest.mark.parametrize("coefficient", [1.0, 0.3])
@pytest.mark.parametrize("name", VALUES)
def test_by_hand_at_half_the_probability(name: str, coefficient: float) -> None:
    slopes = {"pathwise": PATHWISE, "score_function": SCORE, "straight_through_k2": dict.fromkeys(VALUES, LOG2)}
    for kl_gradient, slope in slopes.items():
        loss = registry.create(name, {"kl_gradient": kl_gradient, "coefficient": coefficient})
        expected = coefficient * VALUES[name], coefficient * slope[name]
        assert one_token(loss, LOG2) == pytest.approx(expected)
        assert loss.contract.surrogate_gradient == (kl_gradient != "pathwise")


@pytest.mark.parametrize("kl_type", KL_TYPES)
def test_straight_through_is_the_value_of_one_with_the_gradient_of_k2(kl_type: str) -> None:
    loss = KLStraightThroughLoss({"kl_type": kl_type})
    assert one_token(loss, LOG2) == pytest.approx((VALUES[f"kl_{kl_type}"], LOG2))
    clamped = KLStraightThroughLoss({"kl_type": kl_type, "input_clamp": 0.1, "output_clamp": 0.05})
    value, gradient = one_token(clamped, LOG2)
    assert gradient == pytest.approx(LOG2)
    assert value == pytest.approx(min(0.05, {"k2": 0.005, "k3": math.expm1(-0.1) + 0.1}.get(kl_type, 1)))
    assert clamped.contract.exempt.keys() == {"option_effect"}


@pytest.mark.parametrize(
    ("d", "kl_gradient", "clamps", "expected"),
    [
        # NeMo RL: d within 20, then k within 10; where a clamp holds nothing moves.
        (-25.0, "score_function", {"input_clamp": 20.0, "output_clamp": 10.0}, (10.0, 0.0)),
        (2.0, "score_function", {"input_clamp": 20.0, "output_clamp": 10.0}, (math.exp(-2) + 1, 2.0)),
        (-3.0, "score_function", {"input_clamp": 20.0, "output_clamp": 10.0}, (10.0, 0.0)),
        (2.0, "pathwise", {"input_clamp": 1.0}, (math.exp(-1), 0.0)),
        (1.0, "pathwise", {"input_clamp": 1.0}, (math.exp(-1), 1 - math.exp(-1))),  # on the bound: whole
        (-25.0, "pathwise", {"output_clamp": 10.0}, (10.0, 0.0)),  # OpenRLHF: no input clamp
        (-25.0, "straight_through_k2", {"input_clamp": 20.0, "output_clamp": 10.0}, (10.0, -25.0)),  # verl k3+
    ],
)
def test_clamps(d: float, kl_gradient: str, clamps: dict[str, float], expected: tuple[float, float]) -> None:
    assert one_token(KLK3Loss({"kl_gradient": kl_gradient, **clamps}), d) == pytest.approx(expected)


@pytest.mark.parametrize("kl_gradient", KL_GRADIENTS)
def test_the_penalty_of_grpo_is_this_loss(kl_gradient: str) -> None:
    batch, outputs = further_case(1, sample_mask="floats", counts=True)
    batch["advantages"] = torch.zeros_like(batch["advantages"])
    clamps = {"input_clamp": 0.4, "output_clamp": 0.1}
    mine = registry.create("kl_k3", {"kl_gradient": kl_gradient, "coefficient": 0.3, **clamps})
    grpo = {"aggregation": "token_mean", "reference_policy_kl_penalty": 0.3, "kl_gradient": kl_gradient}
    theirs = GRPOLoss(grpo | {f"kl_{name}": bound for name, bound in clamps.items()})
    got, expected = (value_and_gradient(loss, batch, outputs, FIELD) for loss in (mine, theirs))
    torch.testing.assert_close(got[0], expected[0])
    torch.testing.assert_close(got[1], expected[1])


@pytest.mark.parametrize("kl_type", KL_TYPES)
def test_unbiased_weights_the_estimator(kl_type: str) -> None:
    """rho = 3: the value is 3 k, the gradient 3 (k + dk/dd), which is that of 3 exp(lp - sg lp) k."""
    value, slope = VALUES[f"kl_{kl_type}"], PATHWISE[f"kl_{kl_type}"]
    loss = KLUnbiasedLoss({"kl_type": kl_type})
    assert one_token(loss, LOG2, math.log(3)) == pytest.approx((3 * value, 3 * (value + slope)))
    on_policy = registry.create(f"kl_{kl_type}", {"kl_gradient": "score_function"})
    assert one_token(loss, LOG2) == pytest.approx(one_token(on_policy, LOG2))


@pytest.mark.parametrize(
    ("clamps", "expected"),
    [
        ({"output_clamp": 0.5}, (0.5, 0.0)),  # of rho k = 0.58, as in NeMo RL
        ({"output_clamp": 0.6}, (3 * (LOG2 - 0.5), 3 * LOG2)),
        ({"input_clamp": 0.5}, (3 * (math.expm1(-0.5) + 0.5), 0.0)),  # rho loses its gradient too
    ],
)
def test_clamps_of_the_unbiased(clamps: dict[str, float], expected: tuple[float, float]) -> None:
    assert one_token(KLUnbiasedLoss(clamps), LOG2, math.log(3)) == pytest.approx(expected)


@pytest.mark.parametrize("name", KL)
def test_zero_at_the_reference_and_the_contract_of_k1(name: str) -> None:
    loss = registry.create(name)
    assert one_token(loss, 0.0, 0.7)[0] == 0
    either_sign = name == "kl_k1"
    assert loss.contract.lower_bound == (-math.inf if either_sign else 0)
    assert loss.contract.direction == ({} if either_sign else {"coefficient": +1})
    if name in ("kl_straight_through", "kl_unbiased"):
        of_k1 = registry.create(name, {"kl_type": "k1"})
        assert (of_k1.contract.lower_bound, of_k1.contract.direction) == (-math.inf, {})
        assert one_token(of_k1, -1.0)[0] == -1


@pytest.mark.parametrize("name", ["kl_unbiased", "kl_k3"])
def test_expected_gradient_is_that_of_the_reverse_kl(name: str) -> None:
    """Summed over the vocabulary with the weights of the sampling policy: exact, without sampling."""
    g = torch.Generator().manual_seed(3)
    z, old, ref = (torch.randn(5, generator=g, dtype=torch.float64).log_softmax(0) for _ in range(3))
    z.requires_grad_()
    lp = z.log_softmax(0)
    old = old if name == "kl_unbiased" else lp.detach()
    batch = {
        "token_mask": torch.ones(5, 2, dtype=torch.float64),
        "sample_mask": old.exp(),
        "prev_logprobs": torch.stack([old, old], dim=1),
        "reference_policy_logprobs": torch.stack([ref, ref], dim=1),
        "global_valid_toks": torch.tensor(1.0),
    }
    config = {} if name == "kl_unbiased" else {"kl_gradient": "score_function"}
    estimate = registry.create(name, config).compute_loss(batch, {FIELD: lp[:, None]})
    assert isinstance(estimate, torch.Tensor)
    exact = (lp.exp() * (lp - ref)).sum()
    (got,), (expected,) = (torch.autograd.grad(x, z, retain_graph=True) for x in (estimate, exact))
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("kl_k3", {"coefficient": -0.1}, "KLK3Loss: coefficient=-0.1 is out of range; expected a number at least 0"),
        ("kl_k1", {"input_clamp": 0}, "KLK1Loss: input_clamp=0 is out of range; expected a number above 0"),
        ("kl_k2", {"kl_type": "k3"}, "KLK2Loss: unknown config key 'kl_type'"),
        ("kl_unbiased", {"kl_type": "k4"}, "KLUnbiasedLoss: kl_type='k4'; expected one of 'k1', 'k2', 'k3', 'abs'"),
        (
            "kl_abs",
            {"kl_gradient": "none"},
            "KLAbsLoss: kl_gradient='none'; expected one of 'pathwise', 'score_function'",
        ),
    ],
)
def test_config_errors(name: str, config: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        registry.create(name, config)
    assert str(error.value).startswith(message)
