"""Where teacher and student agree, how the vocabulary is numbered, and what gradients of sampled tokens expect to be."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from loss_reference import registry
from loss_reference.policy_gradient.token_advantages import opd_advantages
from tests.reference.cases import Tensors, value_and_gradient
from tests.reference.distillation.extended import extended_case
from tests.reference.distillation.test_distillation_laws import MORE, NAMES, usual
from tests.reference.distillation.test_kl import one_position

LOGPROB = "next_token_logprobs"
SAMPLED = ("opd_sampled", "iw_opd", "sdpo")
FULL = ("forward_kl", "reverse_kl", "mixed_kl")
ORDER = torch.tensor([3, 0, 4, 1, 2])


def renumbered(batch: Tensors, outputs: Tensors) -> tuple[Tensors, Tensors]:
    """Return the case in which token ORDER[i] is called i."""
    called = ORDER.argsort()
    moved = dict(batch)
    if batch["teacher_logits"].shape[-1] == len(ORDER):
        moved["teacher_logits"] = batch["teacher_logits"][..., ORDER]
    for field in ("input_ids", "teacher_topk_indices"):
        moved[field] = called[batch[field]]
    return moved, {"logits": outputs["logits"][..., ORDER]}


@pytest.mark.parametrize("name", [*FULL, *NAMES, "dynamic_loss_scaling"])
def test_the_numbering_of_the_vocabulary_means_nothing(name: str) -> None:
    batch, outputs = usual(name, 1, sample_mask="floats")
    config = MORE.get(name, {})
    if name == "hybrid_uld":  # its map speaks of token ids
        config = {"vocabulary_map": [2, -1, 0, 5, -1]}
    loss = registry.create(name, config)
    value, gradient = value_and_gradient(loss, batch, outputs, "logits")
    if name == "hybrid_uld":
        loss = registry.create(name, {"vocabulary_map": [[2, -1, 0, 5, -1][i] for i in ORDER.tolist()]})
    got, got_gradient = value_and_gradient(loss, *renumbered(batch, outputs), "logits")
    torch.testing.assert_close(got, value, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(got_gradient, gradient[..., ORDER], rtol=1e-10, atol=1e-14)


def agreeing(seed: int, source: str = LOGPROB) -> tuple[Tensors, Tensors]:
    """Return a case whose teacher, and rollout, give every sampled token the probability the student gives it."""
    batch, outputs = extended_case(seed, source=source, sample_mask="floats")
    lp = outputs[source]
    if source == "logits":
        batch["teacher_logits"] = lp.clone()
        lp = lp[:, :-1].log_softmax(-1).gather(-1, batch["input_ids"][:, 1:, None])[..., 0]
    blank = torch.full((4, 1), math.nan, dtype=torch.float64)
    batch["teacher_logprobs"] = batch["generation_logprobs"] = torch.cat([blank, lp], dim=1)
    return batch, outputs


@pytest.mark.parametrize("name", SAMPLED)
def test_sampled_tokens_on_which_both_agree_teach_nothing(name: str) -> None:
    """Whatever the old policy says of them; all disagreement being 0, iw_opd divides by none."""
    batch, outputs = agreeing(1)
    value, gradient = value_and_gradient(name, batch, outputs, LOGPROB)
    assert value == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_sdft_vanishes_at_equality_however_far_off_policy(alpha: float) -> None:
    batch, outputs = agreeing(2, "logits")
    value, gradient = value_and_gradient(registry.create("sdft", {"alpha": alpha}), batch, outputs, "logits")
    assert abs(value.item()) < 1e-15
    assert gradient.abs().max() < 1e-15


@pytest.mark.parametrize("scale", [1.0, 0.25, 8.0])
@pytest.mark.parametrize("name", ["uld", "hybrid_uld", "cosine_distill"])
def test_zero_and_level_where_both_agree(name: str, scale: float) -> None:
    """The cosine is 1 for any positive multiple of the teacher's scores."""
    batch, outputs = agreeing(3, "logits")
    batch["teacher_logits"] = outputs["logits"] * (scale if name == "cosine_distill" else 1.0)
    value, gradient = value_and_gradient(name, batch, outputs, "logits")
    assert abs(value.item()) < 1e-15
    assert gradient.abs().max() < 1e-15


@pytest.mark.parametrize("seed", range(3))
def test_hybrid_uld_without_a_match_is_uld(seed: int) -> None:
    batch, outputs = extended_case(seed, other_vocabulary=7, sample_mask="floats", counts=True)
    hybrid = registry.create("hybrid_uld", {"vocabulary_map": [-1] * 5, "temperature": 0.8})
    expected = value_and_gradient(registry.create("uld", {"temperature": 0.8}), batch, outputs, "logits")
    torch.testing.assert_close(value_and_gradient(hybrid, batch, outputs, "logits"), expected)


def every_token(z: Tensor, log_p: Tensor) -> tuple[Tensors, Tensors]:
    """Return one row for each token of the vocabulary, weighted with the student's probability of it."""
    V = len(z)
    lp = z.log_softmax(-1)
    batch = {
        "token_mask": torch.ones(V, 2, dtype=torch.float64),
        "sample_mask": lp.detach().exp(),
        "input_ids": torch.arange(V)[:, None].expand(V, 2),
        "teacher_logprobs": log_p[:, None].expand(V, 2),
        "prev_logprobs": lp.detach()[:, None].expand(V, 2),
        "global_valid_toks": torch.tensor(1.0),
        "global_valid_seqs": torch.tensor(1.0),
    }
    return batch, {LOGPROB: lp[:, None]}


@pytest.mark.parametrize(("name", "config"), [("opd_sampled", {}), ("iw_opd", {"gamma": 0.0}), ("sdpo", {})])
def test_in_expectation_over_the_students_samples_it_is_the_reverse_kl(name: str, config: dict[str, Any]) -> None:
    """Summed over the vocabulary with the student's probabilities: exact, without sampling."""
    g = torch.Generator().manual_seed(4)
    z, log_p = torch.randn(2, 6, generator=g, dtype=torch.float64)
    log_p = log_p.log_softmax(-1)
    z = z.clone().requires_grad_()
    batch, outputs = every_token(z, log_p)
    estimate = registry.create(name, config).compute_loss(batch, outputs)
    assert isinstance(estimate, Tensor)
    log_q = z.log_softmax(-1)
    exact = (log_q.exp() * (log_q - log_p)).sum()
    torch.testing.assert_close(*(torch.autograd.grad(x, z, retain_graph=True)[0] for x in (estimate, exact)))


def test_on_policy_distillation_is_reinforce_with_the_log_ratio_of_the_teacher() -> None:
    """MOPD: the advantage is lp_T - lp_old; at lp_old = lp that is opd_sampled, and with a rollout iw_opd of gamma 0."""
    batch, outputs = extended_case(5, source=LOGPROB, sample_mask="floats", counts=True)
    blank = torch.zeros(4, 1, dtype=torch.float64)
    for rollout in (torch.cat([blank, outputs[LOGPROB]], dim=1), batch["generation_logprobs"]):
        A = opd_advantages(batch["teacher_logprobs"], rollout, batch["token_mask"])
        expected = value_and_gradient("reinforce", batch | {"advantages": A}, outputs, LOGPROB)
        plain = registry.create("iw_opd", {"gamma": 0.0})
        given = batch | {"generation_logprobs": rollout}
        torch.testing.assert_close(value_and_gradient(plain, given, outputs, LOGPROB), expected)
        if rollout is not batch["generation_logprobs"]:
            torch.testing.assert_close(value_and_gradient("opd_sampled", batch, outputs, LOGPROB), expected)


def test_symmetric_divergences_do_not_know_who_teaches() -> None:
    batch, outputs = extended_case(6)
    swapped = batch | {"teacher_logits": outputs["logits"]}, {"logits": batch["teacher_logits"]}
    for name in ("tvd", "generalized_jsd", "uld", "cosine_distill"):
        expected = value_and_gradient(name, batch, outputs, "logits")[0]
        torch.testing.assert_close(value_and_gradient(name, *swapped, "logits")[0], expected)


@pytest.mark.parametrize("name", ["skew_forward_kl", "skew_reverse_kl"])
@pytest.mark.parametrize("skew", [0.01, 0.1, 0.7])
def test_a_skewed_divergence_is_at_most_minus_log_of_the_skew(name: str, skew: float) -> None:
    loss = registry.create(name, {"skew": skew})
    far = value_and_gradient(loss, *one_position([0.0, -math.inf], [-math.inf, 0.0]), "logits")[0]
    assert far.item() == pytest.approx(-math.log(skew), rel=1e-12)
    for seed in range(20):
        batch, outputs = extended_case(seed)
        loud = batch | {"teacher_logits": 9 * batch["teacher_logits"]}, {"logits": 9 * outputs["logits"]}
        assert value_and_gradient(loss, *loud, "logits")[0] < -math.log(skew)
