"""Terms as functions of tensors: what they say of their corners, without a batch around them."""

from __future__ import annotations

import math

import torch

from loss_reference.distillation.hinton_kd import hinton_kd
from loss_reference.distillation.self_distillation import sdpo
from loss_reference.distillation.uld import uld
from loss_reference.supervised.mtp_ce import mtp_ce
from loss_reference.supervised.weighted_nll import weighted_nll

INF = float("inf")


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
