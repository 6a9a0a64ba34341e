"""Terms as functions of tensors: what they say of their corners, without a batch around them."""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
import re

import pytest
import torch

import loss_reference
from loss_reference import LossFunction, registry
from loss_reference.composite.actor_critic import actor_critic_total
from loss_reference.composite.adaptive import adaptive
from loss_reference.composite.combine import weighted_sum
from loss_reference.composite.custom_dpo import custom_dpo, mean_nll
from loss_reference.composite.draft import draft
from loss_reference.composite.dynamic_weight import dynamic_weights
from loss_reference.composite.presets import mpo, rpo_nll
from loss_reference.composite.uncertainty_weighting import uncertainty_weighting
from loss_reference.contrastive.distances import margin_contrastive
from loss_reference.contrastive.two_views import clip_symmetric, n_pairs
from loss_reference.distillation.hinton_kd import hinton_kd
from loss_reference.distillation.minillm import minillm
from loss_reference.distillation.self_distillation import sdpo
from loss_reference.distillation.uld import uld
from loss_reference.policy_gradient.cispo import cispo
from loss_reference.policy_gradient.gspo import luspo
from loss_reference.policy_gradient.ppo_variants import bnpo, dapo, dr_grpo
from loss_reference.policy_gradient.vespo import vespo
from loss_reference.preference.f_divergence import fdpo_alpha, fdpo_forward_kl, fdpo_js
from loss_reference.preference.imitation import cpo, orpo
from loss_reference.preference.judged import online_dpo, xpo
from loss_reference.preference.reference_free import alphapo, simpo, slic_hf
from loss_reference.preference.rrhf import rrhf
from loss_reference.preference.triple import tpo, tpo_l
from loss_reference.preference.unpaired import kto
from loss_reference.preference.wpo import wpo
from loss_reference.supervised.mtp_ce import mtp_ce
from loss_reference.supervised.weighted_nll import weighted_nll
from tests.conformance.checks.every_reference import LOSSES

INF = float("inf")
PACKAGE = "loss_reference."


def test_a_token_of_weight_0_is_absent_whatever_its_log_probability() -> None:
    lp = torch.tensor([-INF, -2.0], requires_grad=True)
    terms = weighted_nll(lp, torch.tensor([0.0, 3.0]))
    (gradient,) = torch.autograd.grad(terms.sum(), lp)
    assert terms.tolist() == [0.0, 6.0]
    assert gradient.tolist() == [0.0, -3.0]


def test_a_part_of_weight_0_is_not_taken() -> None:
    log_p, log_q, lp = torch.tensor([[0.0, -INF]]), torch.tensor([[-INF, 0.0]]), torch.tensor([-INF])
    agreeing, likely = log_p, torch.tensor([-0.5])
    assert hinton_kd(log_p, log_q, likely, alpha=0.0).tolist() == [0.5]
    assert hinton_kd(log_p, agreeing, lp, alpha=1.0).tolist() == [0.0]
    assert hinton_kd(log_p, log_q, likely, alpha=0.5).tolist() == [INF]


def test_a_head_predicts_so_many_tokens_ahead() -> None:
    z = torch.zeros(1, 3, 3, 4)
    z[0, 0, 1, 3] = math.log(5.0)  # head 2 at token 0 gives 5/8 to id 3
    y, active = torch.tensor([[0, 3]]), torch.tensor([[True, True]])
    torch.testing.assert_close(mtp_ce(z, y, active, d=2), torch.tensor([[math.log(8 / 5)]]))
    torch.testing.assert_close(mtp_ce(z, y, torch.tensor([[False, True]]), d=1), torch.tensor([[0.0, math.log(4.0)]]))
    assert mtp_ce(z, y, active, d=3).shape == (1, 0)  # nothing is that far ahead


def test_ranks_alone_are_compared_without_a_target() -> None:
    p, q = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.25, 0.25, 0.5]])
    torch.testing.assert_close(uld(p, q), torch.tensor([0.5]))
    torch.testing.assert_close(uld(p, q, torch.tensor([-2.0]), 0.5), torch.tensor([1.5]))


def test_the_parts_of_sdpo_share_the_weight() -> None:
    lp, lp_teacher, lp_old = torch.tensor([-1.0]), torch.tensor([-3.0]), torch.tensor([-9.0])
    torch.testing.assert_close(sdpo(lp, lp_teacher, lp_old), torch.tensor([2.0 * 2.0 * -1.0]))
    torch.testing.assert_close(sdpo(lp, lp_teacher, lp_old, torch.tensor([7.0]), d=0.25), torch.tensor([4.25]))


def test_clipped_terms_and_what_they_are_divided_by() -> None:
    rho, A = torch.tensor([1.25, 1.5, 0.5]), torch.tensor([1.0, 1.0, -2.0])
    torch.testing.assert_close(dapo(rho, A), torch.tensor([-1.25, -1.28, 1.6]))
    torch.testing.assert_close(dr_grpo(rho, A, 8.0), torch.tensor([-1.2, -1.2, 1.6]) / 8)
    torch.testing.assert_close(dr_grpo(torch.tensor([9.0]), -A[:1], 2.0, clip_c=3.0), torch.tensor([1.5]))
    torch.testing.assert_close(bnpo(rho, A, torch.tensor([1.0, 0.0, 3.0])), torch.tensor([-1.2, 0.0, 4.8]) / 4)
    assert bnpo(rho, A, torch.zeros(3)).tolist() == [0.0, 0.0, 0.0]


def test_minillm_takes_a_step_beside_the_answer() -> None:
    rho, A, kl = torch.tensor([1.5, 0.5]), torch.tensor([2.0, -2.0]), torch.tensor([3.0, INF])
    torch.testing.assert_close(minillm(rho, A, kl, 0.5)[:1], torch.tensor([-2.4 + 1.5]))
    torch.testing.assert_close(minillm(rho, A, kl, 0.0, 0.5, 0.5), torch.tensor([-3.0, 1.0]))


def test_luspo_sums_over_the_answer() -> None:
    policy, m = torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[1.0, 0.5, 0.0]])
    k = torch.tensor([[3.0, 0.0, 5.0]])
    assert luspo(policy, m).tolist() == [2.0]
    assert luspo(policy, m, k, beta=0.5).tolist() == [3.5]
    assert luspo(policy, m, k, torch.tensor([[0.0, 0.0, 2.0]]), 0.5).tolist() == [7.0]


def test_preference_and_imitation() -> None:
    p_w, p_l, nll_w = torch.tensor([-0.5]), torch.tensor([-0.5]), torch.tensor([3.0])
    log_2 = math.log(2)
    assert orpo(p_w, p_l, nll_w, beta=0.5).item() == pytest.approx(3 + 0.5 * log_2)
    assert cpo(p_w, p_l, nll_w, alpha=0.5).item() == pytest.approx(log_2 + 1.5)
    assert cpo(p_w, p_l, nll_w, beta=0.5, loss_type="ipo").item() == pytest.approx(1 + 3)
    assert cpo(p_w + 10, p_l, nll_w, 1.0, 0.0, 0.25).item() == pytest.approx(math.log1p(math.exp(-10)) + 2.5)
    assert simpo(p_w - p_l, gamma=0.0, nll_w=nll_w, nll_weight=0.5).item() == pytest.approx(log_2 + 1.5)
    assert rpo_nll(torch.zeros(1), nll_w, alpha=2.0).item() == pytest.approx(log_2 + 6)
    assert mpo(torch.zeros(1), torch.zeros(1), nll_w).item() == pytest.approx(1.2 * log_2 + 3)
    assert mpo(torch.tensor([1.0]), torch.tensor([-1.0]), nll_w, (1.0, 0.0, 0.0)).item() == pytest.approx(
        math.log1p(math.exp(-2))
    )


def test_an_impossible_answer_that_is_not_imitated() -> None:
    p, nll_w = torch.tensor([-1.0]), torch.tensor([INF])
    assert cpo(p, p, nll_w, alpha=0.0).item() == pytest.approx(math.log(2))
    assert rpo_nll(torch.zeros(1), nll_w, alpha=0.0).item() == pytest.approx(math.log(2))
    assert mpo(p, p, nll_w, (1.0, 0.0, 0.0)).item() == pytest.approx(math.log(2))
    assert simpo(p - p, gamma=0.0, nll_w=nll_w).item() == pytest.approx(math.log(2))
    assert tpo(p, p, nll_w, alpha=0.0).item() == pytest.approx(math.log(2))
    assert tpo_l(p, p, nll_w, gamma=0.0, alpha=0.0).item() == pytest.approx(math.log(2))
    assert xpo(torch.ones(1), torch.tensor([-INF]), alpha=0.0).item() == 1.0
    assert wpo(torch.tensor([-INF]), torch.zeros(1)).item() == 0.0
    impossible = torch.tensor([[-INF, -1.0]])
    assert slic_hf(p, p, 1.0, -nll_w, lambda_=0.0).tolist() == [1.0]
    assert rrhf(torch.tensor([[-2.0, -1.0]]), impossible, torch.tensor([[1.0, 0.0]]), nll_weight=0.0).tolist() == [1.0]


def test_weights_that_follow_the_losses() -> None:
    loss = torch.tensor(3.0, requires_grad=True)
    (slope,) = torch.autograd.grad(adaptive(loss, rate=0.5, target=2.0), loss)
    assert slope.item() == 1.25  # the factor is a constant
    assert adaptive(loss, rate=0.5, target=2.0, bounds=None).item() == 3.25
    assert adaptive(loss, rate=0.5, target=2.0, bounds=(0.1, 1.1)).item() == pytest.approx(3.3)
    values, base = torch.tensor([2.0, 1.0, 4.0]), torch.tensor([1.0, 1.0, 1.0])
    torch.testing.assert_close(dynamic_weights(values, base, 0.1, "literal"), torch.tensor([1.1, 0.825, 1.075]))
    assert dynamic_weights(values, base, 9.0).min() == 0
    assert dynamic_weights(values, base, 9.0).sum().item() == pytest.approx(3.0)


def test_a_gold_answer_beside_the_pair() -> None:
    s_w, s_l, nll_gold = torch.tensor([-1.0]), torch.tensor([-3.0]), torch.tensor([4.0])
    assert tpo(s_w, s_l, nll_gold, 0.5, 0.25).item() == pytest.approx(math.log1p(math.exp(-1)) + 1)
    assert tpo(s_w, s_l, nll_gold, 0.5, 0.0, 0.25).item() == pytest.approx(math.log1p(math.exp(-1)) + 0.25)
    assert tpo(s_w, s_l, nll_gold, 0.25, loss_type="hinge").item() == 4.5
    assert tpo(s_w, s_l, nll_gold, 0.5, loss_type="ipo").item() == 5.0
    assert slic_hf(s_w, s_l, 3.0, -nll_gold, 0.5).item() == 3.0
    assert tpo_l(s_w, s_l, nll_gold, 1.0, 2.0, 0.5).item() == pytest.approx(math.log(2) + 2)


def test_named_parts_and_their_weights() -> None:
    policy, value, entropy, kl = torch.tensor([1.0, 2.0, 4.0, 8.0])
    assert actor_critic_total(policy, value).item() == 2.0
    assert actor_critic_total(policy, value, entropy, kl, 0.5, 0.25, 0.125).item() == 2.0
    assert actor_critic_total(policy, entropy=entropy, c_e=0.5).item() == -1.0
    assert weighted_sum([policy, value, kl], [1.0, -0.5, torch.tensor(0.25)]).item() == 2.0


def test_a_weight_is_learnt_beside_the_loss() -> None:
    loss, s = torch.tensor([4.0, 1.0], requires_grad=True), torch.tensor([math.log(4.0), 0.0], requires_grad=True)
    terms = uncertainty_weighting(loss, s)
    torch.testing.assert_close(terms, torch.tensor([(1 + math.log(4.0)) / 2, 0.5]))
    of_loss, of_s = torch.autograd.grad(terms.sum(), (loss, s))
    torch.testing.assert_close(of_loss, torch.tensor([0.125, 0.5]))
    torch.testing.assert_close(of_s, torch.zeros(2))


def test_a_draft_follows_a_policy_that_stays() -> None:
    z_p = torch.tensor([[math.log(9.0), 0.0]], requires_grad=True)
    z_q = torch.zeros(1, 2, requires_grad=True)
    terms = draft(z_p, z_q, temperature=2.0)  # p is (3/4, 1/4), q uniform
    torch.testing.assert_close(terms, torch.tensor([math.log(2.0)]))
    of_p, of_q = torch.autograd.grad(terms.sum(), (z_p, z_q), allow_unused=True)
    assert of_p is None
    torch.testing.assert_close(of_q, torch.tensor([[-0.125, 0.125]]))


def test_a_component_of_your_own() -> None:
    lp, trained = (
        torch.tensor([[-1.0, -2.0, -9.0], [-1.0, -2.0, -9.0]]),
        torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]),
    )
    assert mean_nll(lp, trained).tolist() == [1.5, 0.0]
    assert custom_dpo(torch.tensor(0.5), torch.tensor(3.0), 0.5).item() == 2.0
    assert custom_dpo(torch.tensor(0.5), torch.tensor(math.nan), 0.0).item() == 0.5


def test_a_constant_weight_times_the_advantage() -> None:
    lp, A = torch.tensor([[-1.0, -2.0]], requires_grad=True), torch.tensor([[1.0, -2.0]])
    terms = cispo(lp, torch.tensor([[2.0, 0.5]]) * (lp - lp.detach()).exp(), A)
    torch.testing.assert_close(terms, torch.tensor([[1.2, -3.2]]))
    (slope,) = torch.autograd.grad(terms.sum(), lp)
    torch.testing.assert_close(slope, torch.tensor([[-1.2, 1.6]]))
    assert cispo(lp, torch.full((1, 2), 9.0), A, clip_max=4.0, weight_bound="absolute").tolist() == [[4.0, -16.0]]
    on_policy = vespo(lp, lp - lp.detach(), A)
    torch.testing.assert_close(on_policy, torch.tensor([[1.0, -4.0]]))
    (slope,) = torch.autograd.grad(on_policy.sum(), lp)
    torch.testing.assert_close(slope, -A)
    doubled = vespo(lp, torch.tensor([[math.log(2.0), 0.0]]), A, (1.0, 0.0), (0.0, 1.0))
    torch.testing.assert_close(doubled, torch.tensor([[2.0, -4.0 * math.exp(-1.0)]]))


def test_answers_that_were_judged() -> None:
    first, second, wins = torch.tensor([1.0, 1.0]), torch.tensor([0.0, 0.0]), torch.tensor([True, False])
    softplus = torch.tensor([math.log1p(math.exp(-0.5)), math.log1p(math.exp(0.5))])
    torch.testing.assert_close(online_dpo(first, second, wins, 0.5), softplus)
    assert online_dpo(first, second, wins, 0.5, "ipo").tolist() == [0.0, 4.0]
    assert xpo(first, torch.tensor([-2.0, -4.0]), alpha=0.25).tolist() == [0.5, 0.0]
    torch.testing.assert_close(wpo(first, torch.tensor([3.0, 0.5]), 0.5), torch.tensor([3.0, 0.5]) * softplus[0])
    q, rewards = torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([[0.0, 1.0, 1.0]])
    assert rrhf(q, 2 * q, rewards, 0.5).tolist() == [2.0 + 1.0 - 0.5 * 2.0]


def test_two_views_of_a_row() -> None:
    z, present = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0]]), torch.tensor([True, True])
    rows, columns = torch.tensor([4.0, 2.0]).log(), torch.tensor([2.0, 4.0]).log()
    torch.testing.assert_close(clip_symmetric(z, present), (rows + columns) / 2)
    torch.testing.assert_close(clip_symmetric(z, torch.tensor([True, False]))[0], torch.tensor(0.0))
    torch.testing.assert_close(n_pairs(z, torch.eye(2), present), rows)


def test_pairs_that_are_too_far_or_too_near() -> None:
    d = torch.tensor([0.25, 3.0])
    assert margin_contrastive(d, True, positive_margin=1.0).tolist() == [0.0, 2.0]
    assert margin_contrastive(d, False, negative_margin=1.25).tolist() == [1.0, 0.0]
    assert margin_contrastive(d, True, 1.0, squared=True).tolist() == [0.0, 2.0]


def test_scores_that_bend_the_log_ratio() -> None:
    h_w, h_l = torch.tensor([math.log(2.0)]), torch.tensor([0.0])
    assert fdpo_forward_kl(h_w, h_l, 2.0).item() == pytest.approx(math.log1p(math.exp(-1)))
    assert fdpo_alpha(h_w, h_l, 2.0, alpha=0.0).item() == pytest.approx(math.log1p(math.exp(-1)))
    assert fdpo_alpha(h_w, h_l, 1.0, alpha=1.0).item() == pytest.approx(math.log(1.5))
    assert fdpo_js(h_w, h_l, 1.0).item() == pytest.approx(math.log(1.75))  # sigma is 2/3 against 1/2
    assert alphapo(-h_w, h_l, 1.0, alpha=1.0, gamma=1.0).item() == pytest.approx(math.log1p(math.exp(2)))
    assert alphapo(h_w, h_l, 1.0, alpha=0.0, gamma=0.0).item() == pytest.approx(math.log(1.5))


def test_single_answers_have_weights_of_their_own() -> None:
    h, desirable = torch.tensor([math.log(3.0), math.log(3.0), 50.0]), torch.tensor([True, False, True])
    torch.testing.assert_close(kto(h, desirable, 0.0, 1.0)[:2], torch.tensor([0.25, 0.75]))
    torch.testing.assert_close(kto(h, desirable, 0.0, 1.0, 2.0, 4.0)[:2], torch.tensor([0.5, 3.0]))
    assert kto(h, desirable, 0.0, 1.0, lambda_D=0.5)[2].item() == pytest.approx(0.5 * math.exp(-50))


def functions_of_the_package() -> set[str]:
    """Return the names of all public functions, wherever they are."""
    modules = (importlib.import_module(found.name) for found in pkgutil.walk_packages(loss_reference.__path__, PACKAGE))
    return {name for module in modules for name, x in vars(module).items() if inspect.isfunction(x) and name[0] != "_"}


@pytest.mark.parametrize("cls", LOSSES, ids=lambda cls: cls.__name__)
def test_every_loss_has_a_function_of_its_name_or_says_which_gives_its_terms(cls: type[LossFunction]) -> None:
    names = {name for name in registry.names() if registry.get(name) is cls}
    stated = re.search(r"\n    Terms: (.*)\.\n", cls.__doc__ or "")
    found = re.findall(r"``(\w+)``", stated.group(1)) if stated else []
    assert names & functions_of_the_package() or set(found) & functions_of_the_package()
