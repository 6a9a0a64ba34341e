"""Losses that are in order on every batch a model starts with, and not where training leads."""

from __future__ import annotations

import torch

from loss_reference import Contract, LossFunction
from tests.faults.fault import ADVICE, Fault
from tests.faults.parts import kept, token_mean, token_weights

TOP = 3


class TopAndRest(LossFunction):
    """Forward KL over the teacher's most probable tokens and one bucket for all others."""

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        p = kept(batch["teacher_logits"][:, :-1].detach(), m).log_softmax(-1)
        q = kept(model_outputs["logits"][:, :-1], m).log_softmax(-1)
        top = p.topk(min(TOP, p.shape[-1] - 1), -1).indices
        rest = torch.ones_like(p, dtype=torch.bool).scatter(-1, top, False)
        p, p_rest = p.gather(-1, top), self.together(p.masked_fill(~rest, -torch.inf))
        q_rest = self.rest_of_student(self.together(q.masked_fill(~rest, -torch.inf)), p_rest)
        kl = self.expected(p, p - q.gather(-1, top)).sum(-1) + self.expected(p_rest, p_rest - q_rest)
        return token_mean(kl, m, batch)

    def together(self, log_p):
        """log sum exp, and -inf without a gradient where every one of them is impossible."""
        none = (log_p == -torch.inf).all(-1)
        return torch.where(none, -torch.inf, torch.where(none[..., None], 0.0, log_p).logsumexp(-1))

    def expected(self, log_p, difference):
        possible = log_p > -torch.inf
        return torch.where(possible, log_p.exp() * torch.where(possible, difference, 0.0), 0.0)

    def rest_of_student(self, q_rest, p_rest):
        return q_rest


class FreeRest(TopAndRest):
    """The student's bucket is filled with the teacher's mass: leaving it costs nothing."""

    def rest_of_student(self, q_rest, p_rest):
        return p_rest


FAULTS = (
    Fault(
        "X460",
        "the bucket beside the top tokens takes the teacher's mass for the student's as well",
        "",
        FreeRest,
        TopAndRest,
        ("positivity",),
        Contract(family="distillation", level="token", normalizer="global", lower_bound=0.0),
        bare=ADVICE,
    ),
)
