"""The further losses of the policy-gradient family in narrow precision, far off policy, and compiled."""

from __future__ import annotations

import math

import pytest
import torch

from loss_reference import registry
from tests.reference.cases import value_and_gradient
from tests.reference.policy_gradient.further import CORRECTED, FIELD, NAMES, READS, further_case, source_of

FAR = [("entropy_bonus", "logits"), *((name, FIELD) for name in NAMES if name != "entropy_bonus")]
FAR += [(name, field) for name in NAMES for field in sorted(READS[name]) if field.endswith("_logprobs")]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_narrow_inputs_are_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    batch, outputs = further_case(9, source_of(name), dtype=dtype)
    value, gradient = value_and_gradient(name, batch, outputs, source_of(name))
    wide = [{k: x.double() if x.is_floating_point() else x for k, x in part.items()} for part in (batch, outputs)]
    exact, exact_gradient = value_and_gradient(name, *wide, source_of(name))
    assert value.dtype == torch.float32
    assert gradient.dtype == dtype
    torch.testing.assert_close(value.double(), exact, rtol=4e-6, atol=1e-7)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(gradient.double(), exact_gradient, rtol=4 * eps + 4e-6, atol=eps * 1e-2 + 1e-7)


@pytest.mark.parametrize("away", [-1e4, -300.0, -89.0, 89.0, 300.0, 1e4])
@pytest.mark.parametrize(("name", "moved"), FAR)
def test_far_apart_policies_stay_finite_in_float32(name: str, moved: str, away: float) -> None:
    batch, outputs = further_case(16, source_of(name), dtype=torch.float32)
    if moved in outputs:
        outputs[moved] = away * outputs[moved]
    else:
        batch[moved] = batch[moved] + away
    value, gradient = value_and_gradient(name, batch, outputs, source_of(name))
    assert math.isfinite(value)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("generation", [-75.0, 75.0])
@pytest.mark.parametrize("name", CORRECTED)
def test_two_huge_ratios_at_once(name: str, generation: float) -> None:
    """lp_old far below lp, lp_gen far below lp_old: the product of weight and ratio must fit as well."""
    batch, outputs = further_case(16, dtype=torch.float32)
    batch["advantages"] = -batch["advantages"].abs()
    batch["prev_logprobs"] = batch["prev_logprobs"] - 75
    batch["generation_logprobs"] = batch["prev_logprobs"] - generation
    bounds = {"upper": 1e35} if name == "divergence_mask" else {} if name == "off_policy_mask" else {"is_max": 1e35}
    value, gradient = value_and_gradient(registry.create(name, bounds), batch, outputs, FIELD)
    assert math.isfinite(value)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("impossible", ["prev_logprobs", "generation_logprobs"])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("name", CORRECTED)
def test_a_token_that_one_of_the_policies_finds_impossible(name: str, sign: float, impossible: str) -> None:
    """An engine that filters the vocabulary reports -inf: no weight and no ratio becomes infinite, nor 0 times infinity."""
    batch, outputs = further_case(17, dtype=torch.float32, sample_mask=None)
    batch["token_mask"][:, 2] = 1.0
    batch["advantages"] = sign * batch["advantages"].abs()
    batch[impossible] = batch[impossible].clone()
    batch[impossible][:, 2] = -math.inf
    for level in ("token", "sequence"):
        value, gradient = value_and_gradient(registry.create(name, {"ratio_level": level}), batch, outputs, FIELD)
        assert math.isfinite(value)
        assert torch.isfinite(gradient).all()


def test_unbiased_kl_of_two_huge_exponents() -> None:
    batch, outputs = further_case(16, dtype=torch.float32)
    batch["prev_logprobs"] = batch["prev_logprobs"] - 75
    batch["reference_policy_logprobs"] = batch["reference_policy_logprobs"] + 75
    value, gradient = value_and_gradient("kl_unbiased", batch, outputs, FIELD)
    assert math.isfinite(value)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", ["rloo", "kl_cov", "kl_unbiased", "entropy_bonus", *CORRECTED])
def test_compiles_into_one_graph(name: str) -> None:
    torch.compiler.reset()  # torch counts graphs per function, and the losses share some
    batch, outputs = further_case(14, source_of(name))
    loss = registry.create(name, {"top_quantile": 0.5} if name == "entropy_bonus" else {})
    compiled = torch.compile(loss.compute_loss, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(batch, outputs), loss.compute_loss(batch, outputs))
