"""A token that policy, reference or an older policy cannot give: every loss has its limit there, and none is NaN."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from loss_reference.policy_gradient.kl import KL_GRADIENTS, KL_TYPES, kl_penalty
from tests.conformance.checks.every_reference import CONFIGS, LOSSES
from tests.reference.cases import Tensors, value_and_gradient
from tests.reference.policy_gradient.further import FIELD, further_case

CONSTANTS = ("prev_logprobs", "generation_logprobs", "reference_policy_logprobs")
OF_POLICIES = [cls for cls in LOSSES if ".policy_gradient." in cls.__module__]
NO_LOGPROBS = {"EntropyBonusLoss"}


def spoilt(where: str) -> tuple[Tensors, Tensors]:
    """Return a case without holes, one of whose log-probabilities is -inf."""
    batch, outputs = further_case(71, rows=4, width=5, sample_mask=None)
    batch["token_mask"] = torch.ones(4, 5, dtype=torch.float64)
    (outputs if where == FIELD else batch)[where][1, 2 if where == FIELD else 3] = -math.inf
    return batch, outputs


@pytest.mark.parametrize("where", [FIELD, *CONSTANTS])
@pytest.mark.parametrize(
    "cls", [cls for cls in OF_POLICIES if cls.__name__ not in NO_LOGPROBS], ids=lambda c: c.__name__
)
def test_one_token_makes_nothing_nan(cls: type, where: str) -> None:
    batch, outputs = spoilt(where)
    value, gradient = value_and_gradient(cls(CONFIGS.get(cls.__name__, {})), batch, outputs, FIELD)
    assert not value.isnan()
    assert not gradient.isnan().any()


@pytest.mark.parametrize("name", ["on_policy", "gspo_token"])
def test_a_ratio_to_itself_is_1_wherever(name: str) -> None:
    """The value is the limit; a token that cannot be has no gradient, and the others have theirs."""
    batch, outputs = spoilt(FIELD)
    value, gradient = value_and_gradient(name, batch, outputs, FIELD)
    outputs[FIELD][1, 2] = -1e6
    expected, slope = value_and_gradient(name, batch, outputs, FIELD)
    torch.testing.assert_close(value, expected)
    assert gradient[1, 2] == 0
    slope[1, 2] = 0
    torch.testing.assert_close(gradient, slope)


CLAMPS: list[dict[str, Any]] = [
    {},
    {"input_clamp": 2.0},
    {"output_clamp": 3.0},
    {"input_clamp": 2.0, "output_clamp": 1.0},
]


@pytest.mark.parametrize("clamps", CLAMPS, ids=str)
@pytest.mark.parametrize("gradient", KL_GRADIENTS)
@pytest.mark.parametrize("kind", KL_TYPES)
@pytest.mark.parametrize("d", [math.inf, -math.inf])
def test_a_penalty_at_an_infinite_log_ratio(d: float, kind: str, gradient: str, clamps: dict[str, Any]) -> None:
    """Its value is that of any other gradient, and beside it a finite one has the gradient that was asked for."""
    lp = torch.tensor([min(d, -1.0), -1.0], dtype=torch.float64, requires_grad=True)
    lp_ref = torch.tensor([-1.0 if d < 0 else -math.inf, -1.7], dtype=torch.float64)
    k = kl_penalty(lp, lp_ref, kind, gradient, **clamps)
    (slope,) = torch.autograd.grad(k.sum(), lp)
    assert torch.equal(k.detach(), kl_penalty(lp, lp_ref, kind, "pathwise", **clamps).detach())
    assert not slope.isnan().any()
    alone = lp[1:].detach().requires_grad_()
    (expected,) = torch.autograd.grad(kl_penalty(alone, lp_ref[1:], kind, gradient, **clamps).sum(), alone)
    assert torch.equal(slope[1:], expected)
