"""Losses that bear the name of a reference: fed in any form they are compared with it, at their defaults and beyond."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from loss_conformance import check_loss
from loss_conformance.verdict import Status


def summed(lp, mask):
    return torch.where(mask != 0, lp, 0.0).sum(-1)


def dpo_loss(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, chosen_mask, rejected_mask, dpo_beta=0.1
):
    h_w = summed(chosen_logps - ref_chosen_logps.detach(), chosen_mask)
    h_l = summed(rejected_logps - ref_rejected_logps.detach(), rejected_mask)
    return -F.logsigmoid(dpo_beta * (h_w - h_l)).mean()


def beta_twice(
    chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, chosen_mask, rejected_mask, dpo_beta=0.1
):
    h_w = dpo_beta * summed(chosen_logps - ref_chosen_logps.detach(), chosen_mask)
    h_l = dpo_beta * summed(rejected_logps - ref_rejected_logps.detach(), rejected_mask)
    return -F.logsigmoid(dpo_beta * (h_w - h_l)).mean()


class SimPOLoss(nn.Module):
    """The margin is a share of beta, and both are its own."""

    def __init__(self, beta=2.0, gamma_beta_ratio=0.5):
        super().__init__()
        self.beta, self.gamma_beta_ratio = beta, gamma_beta_ratio

    def margin(self, gap):
        return self.beta * (gap - self.gamma_beta_ratio)

    def forward(self, chosen_logps, rejected_logps, chosen_mask, rejected_mask):
        chosen, rejected = (
            summed(lp, mask) / (mask != 0).sum(-1).clamp(min=1)
            for lp, mask in ((chosen_logps, chosen_mask), (rejected_logps, rejected_mask))
        )
        return -F.logsigmoid(self.margin(chosen - rejected)).mean()


class MarginWithoutBeta(SimPOLoss):
    def margin(self, gap):
        return self.beta * gap - self.gamma_beta_ratio


def kto_loss(
    policy_logps, reference_logps, policy_KL_logps, reference_KL_logps, labels, beta=0.1, undesirable_weight=1.0
):
    z = (policy_KL_logps - reference_KL_logps).mean().detach().clamp(min=0)
    x = beta * (policy_logps - reference_logps.detach() - z)
    return torch.where(labels > 0, torch.sigmoid(-x), undesirable_weight * torch.sigmoid(x)).mean()


def one_weight_for_all(
    policy_logps, reference_logps, policy_KL_logps, reference_KL_logps, labels, beta=0.1, undesirable_weight=1.0
):
    z = (policy_KL_logps - reference_KL_logps).mean().detach().clamp(min=0)
    x = beta * (policy_logps - reference_logps.detach() - z)
    return undesirable_weight * torch.where(labels > 0, torch.sigmoid(-x), torch.sigmoid(x)).mean()


def divergences(student_logits, teacher_logits, beta, first, second):
    p, q = teacher_logits.detach().log_softmax(-1), student_logits.log_softmax(-1)
    if beta in (0.0, 1.0):
        a, b = ((p, q), (q, p))[first if beta == 0 else second]
        return (a.exp() * (a - b)).sum(-1).mean()
    m = torch.logsumexp(torch.stack((p + torch.tensor(beta).log(), q + torch.tensor(1 - beta).log())), 0)
    return (beta * (p.exp() * (p - m)).sum(-1) + (1 - beta) * (q.exp() * (q - m)).sum(-1)).mean()


def gkd_loss(student_logits, teacher_logits, beta=0.5):
    return divergences(student_logits, teacher_logits, beta, 0, 1)


def ends_exchanged(student_logits, teacher_logits, beta=0.5):
    return divergences(student_logits, teacher_logits, beta, 1, 0)


def chi_po_loss(policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1, r_max=5.0):
    """Its largest reward is another one than that of the reference, and acts where beta is large."""
    h_w, h_l = policy_chosen_logps - ref_chosen_logps.detach(), policy_rejected_logps - ref_rejected_logps.detach()
    gap = h_w.clamp(max=20).exp() - h_l.clamp(max=20).exp() + h_w - h_l
    return -F.logsigmoid((beta * gap).clamp(-2 * r_max, 2 * r_max)).mean()


def said_of(loss, name):
    loss.__name__ = loss.__qualname__ = name
    (verdict,) = check_loss(loss, profile="quick", seed=0, device="cpu", checks=("namesake",)).verdicts
    return verdict


@pytest.mark.parametrize(
    ("right", "wrong", "name"),
    [
        (dpo_loss, beta_twice, "dpo_loss"),
        (SimPOLoss, MarginWithoutBeta, "SimPOLoss"),
        (kto_loss, one_weight_for_all, "kto_loss"),
        (gkd_loss, ends_exchanged, "gkd_loss"),
    ],
)
def test_a_mistake_is_told_and_the_right_one_passes(right, wrong, name):
    assert said_of(right, name).status is Status.PASSED
    assert said_of(wrong, name).status is Status.ADVICE


def test_what_an_instance_holds_is_what_it_is_set_to():
    (verdict,) = check_loss(SimPOLoss(2.5, 0.3), profile="quick", seed=0, checks=("namesake",)).verdicts
    assert verdict.status is Status.PASSED


def test_a_constant_of_its_own_may_act_beside_another_setting():
    assert said_of(chi_po_loss, "chi_po_loss").status is Status.PASSED
