"""Pairs that are weighed, or whose margin is bent: WPO, TDPO, beta-DPO, scaled rewards, chi-PO."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch

from loss_reference import registry
from loss_reference.preference.beta_dpo import beta_of_batch
from loss_reference.preference.chi_po import chi_po
from loss_reference.preference.wpo import aligned_log_weight
from tests.oracles import preference_weighted
from tests.reference.cases import Tensors, value_and_gradient
from tests.reference.preference.answers import answers, one_token
from tests.reference.test_against_oracles import arrays

LP = "next_token_logprobs"
LOG2 = math.log(2)
Config = dict[str, Any]


def with_reference_logprobs(batch: Tensors) -> Tensors:
    """Return the batch with the log-probabilities that its reference logits give its tokens."""
    log_ref = batch["reference_logits"][:, :-1].log_softmax(-1)
    lp_ref = log_ref.gather(-1, batch["input_ids"][:, 1:].unsqueeze(-1)).squeeze(-1)
    return {**batch, "reference_policy_logprobs": torch.cat([torch.zeros_like(lp_ref[:, :1]), lp_ref], 1)}


@pytest.mark.parametrize(("weighting", "weight"), [("aligned", 1.0), ("clamped", 1 / 25)])
def test_wpo_of_a_uniform_policy(weighting: str, weight: float) -> None:
    batch, outputs = answers(3, sample_mask=None, source="logits", rows=2)
    batch["token_mask"][:, 1:] = 1.0
    uniform = {"logits": torch.zeros_like(outputs["logits"])}
    loss = registry.create("wpo", {"weighting": weighting})
    value, gradient = value_and_gradient(loss, batch, uniform, "logits")
    expected, dpo_gradient = value_and_gradient("dpo", batch, uniform, "logits")
    assert value.item() == pytest.approx(weight * expected.item())
    # The aligned weight is constant, the clamped one carries a gradient of its own.
    assert torch.allclose(gradient, weight * dpo_gradient) == (weighting == "aligned")


def test_wpo_weights() -> None:
    log_pi = torch.tensor([0.9, 0.1], dtype=torch.float64).log()
    assert aligned_log_weight(log_pi[0], log_pi).exp().item() == pytest.approx(0.9 / 0.82)
    assert aligned_log_weight(log_pi[1], log_pi).exp().item() == pytest.approx(0.1 / 0.82)
    certain = torch.tensor([0.0, -math.inf, -math.inf])
    assert aligned_log_weight(certain[0], certain).item() == 0
    for weighting, stopped in (("aligned", True), ("clamped", False)):
        assert registry.create("wpo", {"weighting": weighting}).contract.surrogate_gradient == stopped


@pytest.mark.parametrize("name", ["tdpo1", "tdpo2"])
def test_tdpo_at_policy_equal_to_reference(name: str) -> None:
    batch, outputs = answers(5, source="logits")
    value, _ = value_and_gradient(name, {**batch, "reference_logits": outputs["logits"]}, outputs, "logits")
    assert value.item() == pytest.approx(LOG2, rel=1e-14)


def test_tdpo2_without_its_kl_is_dpo() -> None:
    batch, outputs = answers(7, source="logits", sample_mask="floats", counts=True)
    batch = with_reference_logprobs(batch)
    expected = value_and_gradient("dpo", batch, outputs, "logits")
    torch.testing.assert_close(
        value_and_gradient(registry.create("tdpo2", {"alpha": 0.0}), batch, outputs, "logits"), expected
    )


def test_tdpo2_stops_the_gradient_of_the_chosen_kl() -> None:
    batch, outputs = answers(9, source="logits", sample_mask=None)
    one, one_gradient = value_and_gradient("tdpo1", batch, outputs, "logits")
    two, two_gradient = value_and_gradient(registry.create("tdpo2", {"alpha": 1.0}), batch, outputs, "logits")
    assert one.item() == pytest.approx(two.item(), rel=1e-14)
    torch.testing.assert_close(one_gradient[1::2], two_gradient[1::2])
    assert not torch.allclose(one_gradient[2::2], two_gradient[2::2], rtol=0.1)


@pytest.mark.parametrize("name", ["tdpo1", "tdpo2"])
def test_tdpo_of_a_policy_that_rules_tokens_out(name: str) -> None:
    batch, outputs = answers(11, source="logits", sample_mask=None, dtype=torch.float32)
    ruled_out = torch.ones_like(outputs["logits"], dtype=torch.bool).scatter(
        2, batch["input_ids"].roll(-1, 1).unsqueeze(-1), False
    )
    ruled_out[..., 1:] = False
    value, gradient = value_and_gradient(
        name, batch, {"logits": outputs["logits"].masked_fill(ruled_out, -math.inf)}, "logits"
    )
    assert value.isfinite()
    assert gradient.isfinite().all()


def test_beta_dpo_without_feedback_is_dpo() -> None:
    batch, outputs = answers(13, sample_mask="floats", counts=True)
    del batch["selection_mask"]
    expected = value_and_gradient("dpo", batch, outputs, LP)
    torch.testing.assert_close(
        value_and_gradient(registry.create("beta_dpo", {"a": 0.0}), batch, outputs, LP), expected
    )


def test_beta_follows_the_gap_of_the_pairs_that_take_part() -> None:
    zero = torch.zeros(())
    delta, both, none = torch.tensor([1.0, 3.0]), torch.tensor([True, True]), torch.tensor([False, False])
    assert beta_of_batch(delta, both, zero + 0.5).item() == pytest.approx(0.1 * (1 + 0.6 * 1.5))
    assert beta_of_batch(delta, torch.tensor([True, False]), zero).item() == pytest.approx(0.1 * 1.6)
    assert beta_of_batch(delta, none, zero).item() == pytest.approx(0.1)
    assert beta_of_batch(-100 * delta, both, zero).item() == pytest.approx(1e-3)
    batch, outputs = one_token([2.0, 0.0, 4.0, 0.0], selection_mask=[1.0, 1.0, 1.0, 0.0])
    value, gradient = value_and_gradient("beta_dpo", batch, outputs, LP)
    beta = 0.1 * (1 + 0.6 * 2.0)
    assert value.item() == pytest.approx(math.log1p(math.exp(-2 * beta)))
    slope = beta / (1 + math.exp(2 * beta))  # beta itself is constant
    assert gradient.flatten().tolist() == pytest.approx([-slope, slope, 0.0, 0.0])


def test_beta_dpo_state() -> None:
    loss = registry.create("beta_dpo", {"ema": 0.75})
    first, outputs = one_token(
        [2.0, 0.0, 4.0, 0.0, 9.0, 0.0],
        selection_mask=[1.0] * 2 + [0.0] * 2 + [1.0] * 2,
        sample_mask=[1.0] * 4 + [0.0] * 2,
    )
    value_and_gradient(loss, first, outputs, LP)
    assert loss.state_dict()["gap_mean"] == pytest.approx(0.25 * 3.0)  # selected or not, and only what counts
    before = copy.deepcopy(loss.state_dict())
    batch, outputs = answers(15)
    got = value_and_gradient(loss.eval(), batch, outputs, LP)[0].item()
    oracle = preference_weighted.beta_dpo(arrays(batch), {LP: outputs[LP].numpy()}, gap_mean=0.75)
    assert got == pytest.approx(oracle, rel=1e-12)
    assert loss.state_dict() == before
    assert value_and_gradient(loss.train(), batch, outputs, LP)[0].item() == got  # used as it stands, then moved
    moved = copy.deepcopy(loss.state_dict())
    assert moved != before
    value_and_gradient(loss, {**batch, "sample_mask": torch.zeros(12)}, outputs, LP)
    assert loss.state_dict() == moved


@pytest.mark.parametrize("gap", [1.0, -1.0, 0.0, 2.5])
def test_rpo_scale_weighs_a_pair_by_its_gap(gap: float) -> None:
    batch, outputs = one_token([0.8, -0.3], rewards=[gap, 0.0])
    value, gradient = value_and_gradient(registry.create("rpo_scale"), batch, outputs, LP)
    expected, dpo_gradient = value_and_gradient(registry.create("dpo", {"beta": 0.2}), batch, outputs, LP)
    torch.testing.assert_close((value, gradient), (abs(gap) * expected, abs(gap) * dpo_gradient))


def test_chi_po_margin() -> None:
    h = torch.tensor([0.0, 0.5, 3.0, -2.0], dtype=torch.float64)
    assert chi_po(h, h).tolist() == pytest.approx([LOG2] * 4)
    margin = 0.1 * (math.exp(0.5) + 0.5 - math.exp(-2.0) + 2.0)
    assert chi_po(h[1], h[3]).item() == pytest.approx(math.log1p(math.exp(-margin)))
    bounds = math.log1p(math.exp(-20.0)), 20 + math.log1p(math.exp(-20.0))
    assert registry.create("chi_po").contract.upper_bound == pytest.approx(bounds[1])
    for h_w, h_l, bound in ((300.0, 0.0, bounds[0]), (0.0, 300.0, bounds[1])):
        batch, outputs = one_token([h_w, h_l])
        value, gradient = value_and_gradient("chi_po", batch, outputs, LP)
        assert value.item() == pytest.approx(bound)
        assert torch.equal(gradient, torch.zeros_like(gradient))


def test_chi_po_keeps_the_difference_of_large_log_ratios() -> None:
    # exp(20) = 5e8 swallows log-ratios in float32, where one apart is 0.03 of the distance of two neighbours.
    got = chi_po(torch.tensor(26.0), torch.tensor(23.0), beta=1.0)
    assert got.item() == pytest.approx(math.log1p(math.exp(-3.0)), rel=1e-6)
