"""Inputs that break careless forms: reference points far off, impossible tokens, hopeless pairs, weighted quantiles."""

from __future__ import annotations

import math

import pytest
import torch

from loss_reference import registry
from loss_reference.preference.sorted import quantile_differences
from tests.reference.cases import Tensors, value_and_gradient
from tests.reference.preference.answers import FULL_VOCABULARY, answers, one_token
from tests.reference.preference.helpers import at, pairs

LP = "next_token_logprobs"


@pytest.mark.parametrize("point", [1e4, 1e30])
def test_kto_from_a_reference_point_far_off(point: float) -> None:
    batch, outputs = one_token([1.0, -1.0], labels=[1.0, 0.0], kl_reference_point=point, dtype=torch.float32)
    value, gradient = value_and_gradient("kto", batch, outputs, LP)
    assert value.item() == 0.5  # the desirable answer is worth nothing yet, the other is as bad as it should be
    assert gradient.flatten().tolist() == [0.0, 0.0]


def test_the_reference_point_of_kto_is_constant_however_it_is_given() -> None:
    for field, content in (
        ("kl_reference_point", torch.tensor(0.7)),
        ("mismatched_log_ratios", torch.tensor([0.7, 0.7])),
    ):
        constant = content.double().requires_grad_()
        batch, outputs = one_token([1.0, -1.0], labels=[1.0, 0.0], **{field: constant})
        outputs[LP].requires_grad_()
        registry.create("kto").compute_loss(batch, outputs).backward()
        assert constant.grad is None
        # sigma(x) sigma(-x) at x = 0.1 (h - 0.7): as if z did not depend on the policy.
        slopes = [0.05 / (4 * math.cosh(0.1 * (h - 0.7) / 2) ** 2) for h in (1.0, -1.0)]
        assert outputs[LP].grad is not None
        assert outputs[LP].grad.flatten().tolist() == pytest.approx([-slopes[0], slopes[1]])


def test_kto_of_a_single_row_measures_it_from_its_own_mismatch() -> None:
    batch, outputs = one_token([1.0], labels=[1.0], mismatched_log_ratios=[4.0])
    given = {**batch, "kl_reference_point": torch.tensor(4.0, dtype=torch.float64)}
    assert value_and_gradient("kto", batch, outputs, LP) == value_and_gradient("kto", given, outputs, LP)


def ruled_out(logits: torch.Tensor, batch: Tensors) -> torch.Tensor:
    """Return the logits with token 0 impossible wherever it is not the next token."""
    here = torch.zeros_like(logits, dtype=torch.bool)
    here[..., 0] = batch["input_ids"].roll(-1, 1) != 0
    return logits.masked_fill(here, -math.inf)


@pytest.mark.parametrize("policy_too", [False, True])
@pytest.mark.parametrize("name", ["tdpo1", "tdpo2"])
def test_tdpo_of_a_reference_that_rules_tokens_out(name: str, policy_too: bool) -> None:
    """0 log 0 is 0: what the reference never says adds nothing to KL(reference || policy)."""
    batch, outputs = answers(97, source="logits", sample_mask=None)
    batch["reference_logits"] = ruled_out(batch["reference_logits"], batch)
    logits = ruled_out(outputs["logits"], batch) if policy_too else outputs["logits"]
    exact = {**batch, "reference_logits": batch["reference_logits"].clamp(min=-1e3)}  # e^-1000 is 0
    expected = value_and_gradient(name, exact, {"logits": logits.clamp(min=-1e3)}, "logits")
    got = value_and_gradient(name, batch, {"logits": logits}, "logits")
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", FULL_VOCABULARY)
def test_a_shift_of_the_logits_changes_nothing(name: str) -> None:
    batch, outputs = answers(99, source="logits", sample_mask="floats")
    g = torch.Generator().manual_seed(2)
    both = torch.randn(2, *batch["token_mask"].shape, 1, generator=g, dtype=torch.float64) * 30
    expected = value_and_gradient(name, batch, outputs, "logits")
    moved = {**batch, "reference_logits": batch["reference_logits"] + both[0]}
    torch.testing.assert_close(
        value_and_gradient(name, moved, {"logits": outputs["logits"] + both[1]}, "logits"),
        expected,
        rtol=1e-11,
        atol=1e-13,
    )


def test_the_weight_of_wpo_is_at_most_1_where_it_is_clamped() -> None:
    """A peaked policy that samples its favourite: 0.9 / 0.82 a token when aligned, and more than 1 unless clamped."""
    log_pi = torch.tensor([0.9, 0.1], dtype=torch.float64).log()
    batch = {
        "input_ids": torch.zeros(2, 3, dtype=torch.long),
        "token_mask": torch.ones(2, 3, dtype=torch.float64),
        "reference_policy_logprobs": torch.full((2, 3), math.log(0.9), dtype=torch.float64),
    }
    outputs = {"logits": log_pi.expand(2, 3, 2)}
    for weighting, weight in (("aligned", (0.9 / 0.82) ** 2), ("clamped", 0.9**2)):
        value, _ = value_and_gradient(registry.create("wpo", {"weighting": weighting}), batch, outputs, "logits")
        assert value.item() == pytest.approx(weight * math.log(2))


def test_weighted_quantiles_have_the_mean_of_the_differences() -> None:
    g = torch.Generator().manual_seed(3)
    a, b, w = torch.randn(3, 9, generator=g, dtype=torch.float64)
    w = w.abs() * (w > -0.5)
    d, v = quantile_differences(a, b, w)
    assert (d * v).sum().item() == pytest.approx((w * (a - b)).sum().item(), rel=1e-13)


@pytest.mark.parametrize("name", ["aot", "aot_unpaired"])
def test_sorting_ties_spoils_nothing(name: str) -> None:
    batch, outputs = pairs([1.0, 1.0, 1.0], [-0.5, -0.5, -0.5])
    value, gradient = value_and_gradient(name, batch, outputs, LP)
    one, slope = at("dpo", 1.0, -0.5)
    assert value.item() == pytest.approx(one)
    assert gradient.flatten().tolist() == pytest.approx((slope / 3).tolist() * 3)


@pytest.mark.parametrize("p", [0.0, -1e-9, -1e-3])
def test_orpo_of_answers_that_are_certain(p: float) -> None:
    """log(1 - exp(p)) by log1p(-exp(p)) is -inf from p = -6e-8 on in float32; the odds here end at 8 million to 1."""
    for other in (p, -3.0):
        for p_w, p_l in ((p, other), (other, p)):
            value, gradient = at("orpo", 0.0, 0.0, p_w=p_w, p_l=p_l, dtype=torch.float32)
            exact, _ = at("orpo", 0.0, 0.0, p_w=min(p_w, -(2.0**-23)), p_l=min(p_l, -(2.0**-23)))
            assert value == pytest.approx(exact, rel=1e-5, abs=2e-7)
            assert gradient.isfinite().all()


@pytest.mark.parametrize("name", ["aot", "aot_unpaired", "kto", "bco", "beta_dpo"])
def test_a_batch_twice_over_is_what_it_was_once(name: str) -> None:
    """Quantiles, reference points and running means of a batch are those of its copies, whichever of them comes first."""
    batch, outputs = answers(101, sample_mask="floats")
    batch["sample_mask"] = batch["sample_mask"] * 4  # no divisor is held at 1
    twice = [{k: torch.cat([x, x]) for k, x in tensors.items()} for tensors in (batch, outputs)]
    value, gradient = value_and_gradient(name, batch, outputs, LP)
    got, got_gradient = value_and_gradient(name, twice[0], twice[1], LP)
    torch.testing.assert_close(got, value, rtol=1e-13, atol=0)
    torch.testing.assert_close(got_gradient[:12] + got_gradient[12:], gradient, rtol=1e-12, atol=1e-16)
