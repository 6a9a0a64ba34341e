"""Losses that bear the name of a reference and are not it: nothing but the reference can tell."""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from loss_reference import Contract
from tests.faults.fault import ADVICE, Fault

__all__ = ["FAULTS"]


def _delta(chosen: Tensor, rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor) -> Tensor:
    return (chosen - rejected) - (reference_chosen - reference_rejected)


def ipo_whole(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.1):  # type: ignore[no-untyped-def]
    delta = _delta(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps)
    return ((delta - 1 / beta) ** 2).mean()


def ipo_half(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.1):  # type: ignore[no-untyped-def]
    delta = _delta(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps)
    return ((delta - 1 / (2 * beta)) ** 2).mean()


def dpo_crossed(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.1):  # type: ignore[no-untyped-def]
    delta = _delta(policy_chosen_logps, policy_rejected_logps, reference_rejected_logps, reference_chosen_logps)
    return -F.logsigmoid(beta * delta).mean()


def dpo_straight(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.1
):  # type: ignore[no-untyped-def]
    delta = _delta(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps)
    return -F.logsigmoid(beta * delta).mean()


def jsd_of_logs(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    log_q, log_p = student_logits.log_softmax(-1), teacher_logits.detach().log_softmax(-1)
    log_m = (log_q + log_p) / 2
    return ((log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)).sum(-1) / 2).mean()


def jsd_of_probabilities(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    log_q, log_p = student_logits.log_softmax(-1), teacher_logits.detach().log_softmax(-1)
    log_m = ((log_q.exp() + log_p.exp()) / 2).log()
    return ((log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)).sum(-1) / 2).mean()


def jsd_of_roles(student_logits: Tensor, teacher_logits: Tensor, beta: float = 0.5) -> Tensor:
    """The teacher weighs beta in the mixture and in the sum."""
    log_q, log_p = student_logits.log_softmax(-1), teacher_logits.detach().log_softmax(-1)
    log_m = (beta * log_p.exp() + (1 - beta) * log_q.exp()).log()
    terms = beta * log_p.exp() * (log_p - log_m) + (1 - beta) * log_q.exp() * (log_q - log_m)
    return terms.sum(-1).mean()


def jsd_of_exchanged_roles(student_logits: Tensor, teacher_logits: Tensor, beta: float = 0.5) -> Tensor:
    """The student weighs beta in the mixture: at a half nothing tells."""
    log_q, log_p = student_logits.log_softmax(-1), teacher_logits.detach().log_softmax(-1)
    log_m = (beta * log_q.exp() + (1 - beta) * log_p.exp()).log()
    terms = beta * log_p.exp() * (log_p - log_m) + (1 - beta) * log_q.exp() * (log_q - log_m)
    return terms.sum(-1).mean()


def _capped(log_probs: Tensor, old_log_probs: Tensor, response_mask: Tensor) -> tuple[Tensor, Tensor]:
    kept = response_mask != 0
    lp = torch.where(kept, log_probs, 0.0)
    return lp, (lp - torch.where(kept, old_log_probs.detach(), 0.0)).clamp(max=20.0).exp().clamp(0.8, 1.2)


def cispo_live(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, response_mask: Tensor) -> Tensor:
    lp, weight = _capped(log_probs, old_log_probs, response_mask)
    return -(weight * advantages[:, None] * lp * response_mask).sum() / response_mask.sum().clamp(min=1)


def cispo_held(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, response_mask: Tensor) -> Tensor:
    lp, weight = _capped(log_probs, old_log_probs, response_mask)
    return -(weight.detach() * advantages[:, None] * lp * response_mask).sum() / response_mask.sum().clamp(min=1)


FAULTS: Final = (
    Fault(
        "X401",
        "1 / beta for 1 / (2 beta)",
        "",
        ipo_whole,
        ipo_half,
        ("baseline",),
        Contract(baseline="ipo"),
        bare=ADVICE,
    ),
    Fault(
        "X402",
        "the mixture made of log-probabilities",
        "",
        jsd_of_logs,
        jsd_of_probabilities,
        ("baseline",),
        Contract(baseline="generalized_jsd"),
        bare=ADVICE,
    ),
    Fault(
        "X403",
        "the capped weight is live: the value is right",
        "",
        cispo_live,
        cispo_held,
        ("baseline",),
        Contract(baseline="cispo", surrogate_gradient=True),
        bare=ADVICE,
    ),
    Fault(
        "X404",
        "the reference's answers change places",
        "",
        dpo_crossed,
        dpo_straight,
        ("baseline",),
        Contract(family="preference"),
        advice=True,
    ),
    Fault(
        "X482",
        "teacher and student change places in the mixture, which the default does not show",
        "huggingface/trl#3043",
        jsd_of_exchanged_roles,
        jsd_of_roles,
        ("baseline",),
        Contract(family="distillation"),
        advice=True,
    ),
)
