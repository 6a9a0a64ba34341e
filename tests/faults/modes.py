"""Mistakes behind a setting, behind the end of an episode, along the axis of levels, and inputs nobody reads."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from loss_reference import Contract, Field, LossFunction, Option
from tests.faults.fault import ADVICE, UNSEEN, Fault
from tests.faults.parts import gathered, kept, token_mean, token_weights

CRITIC = {
    "current_q": Field("values", "B", trainable=True),
    "next_q": Field("values", "B", trainable=False),
    "next_log_prob": Field("logprobs", "B", trainable=False),
    "rewards": Field("rewards", "B", trainable=False),
    "dones": Field("labels", "B"),
}
QUANTILES = {
    "quantiles": Field("values", "B Q", trainable=True),
    "target_quantiles": Field("values", "B Q", trainable=False),
}


class Distillation(LossFunction):
    """KL to the teacher or from it, a mean over the trained tokens of the global batch."""

    def __init__(self, config=None):
        super().__init__(config)
        self.direction = self.config.get("direction", "forward")

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        student, teacher = (
            kept(logits[:, :-1], m).log_softmax(-1)
            for logits in (model_outputs["logits"], batch["teacher_logits"].detach())
        )
        if self.direction == "forward":
            return token_mean(_kl(teacher, student), m, batch)
        return self.reverse(_kl(student, teacher), m, batch)

    def reverse(self, terms, m, batch):
        return token_mean(terms, m, batch)


class ReverseDividedTwice(Distillation):
    def reverse(self, terms, m, batch):
        return token_mean(terms / m.sum().clamp(min=1), m, batch)


class WeighedDistillation(LossFunction):
    """KL to the teacher, weighed with how good an answer was."""

    def constant(self, x):
        return x.detach()

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        student = kept(model_outputs["logits"][:, :-1], m).log_softmax(-1)
        teacher = self.constant(kept(batch["teacher_logits"][:, :-1], m)).log_softmax(-1)
        worth = kept(batch["advantages"][:, 1:].detach(), m).sigmoid()
        return token_mean(worth * _kl(teacher, student), m, batch)


class LiveBesideDetached(WeighedDistillation):
    def constant(self, x):
        return x


def _kl(p, q):
    never = torch.isinf(p)
    return (p.exp() * torch.where(never, 0.0, p - q.masked_fill(never, 0.0))).sum(-1)


class Focal(LossFunction):
    """Next-token loss that counts what is known already for less."""

    key = "focus"

    def __init__(self, config=None):
        super().__init__(config)
        self.focus = self.config.get(self.key, 0.5)

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        log_p = kept(gathered(batch, model_outputs, m), m)
        return token_mean(-((1 - log_p.exp()).clamp(min=1e-6) ** self.focus) * log_p, m, batch)


class KeyOfAnotherName(Focal):
    key = "focusing"


def soft_critic(current_q, next_q, next_log_prob, rewards, dones, alpha=0.2, gamma=0.99):
    goal = rewards + (1 - dones) * gamma * (next_q - alpha * next_log_prob)
    return F.mse_loss(current_q, goal.detach())


def entropy_behind_the_end(current_q, next_q, next_log_prob, rewards, dones, alpha=0.2, gamma=0.99):
    goal = rewards + (1 - dones) * gamma * next_q - alpha * next_log_prob
    return F.mse_loss(current_q, goal.detach())


class QuantileRegression(nn.Module):
    """Every predicted quantile against every wanted one; level i belongs to prediction i."""

    axes = (1, -1, 1)

    def forward(self, quantiles, target_quantiles):
        count = quantiles.shape[1]
        levels = (torch.arange(count, dtype=quantiles.dtype, device=quantiles.device) + 0.5) / count
        error = target_quantiles.detach()[:, None, :] - quantiles[:, :, None]
        side = (levels.view(self.axes) - (error.detach() < 0).to(levels.dtype)).abs()
        return (side * F.huber_loss(error, torch.zeros_like(error), reduction="none")).mean(2).sum(1).mean()


class LevelsOfTheTargets(QuantileRegression):
    axes = (1, 1, -1)


def within_documents(logits, input_ids, document_ids):
    same = document_ids[:, 1:] == document_ids[:, :-1]
    log_p = logits[:, :-1].log_softmax(-1).gather(-1, input_ids[:, 1:, None]).squeeze(-1)
    return -torch.where(same, log_p, 0.0).sum() / same.sum().clamp(min=1)


def across_documents(logits, input_ids, document_ids):
    return -logits[:, :-1].log_softmax(-1).gather(-1, input_ids[:, 1:, None]).mean()


FAULTS = (
    Fault(
        "X499",
        "the reverse KL, which is not the default, divided by the count of tokens twice",
        "modelscope/easydistill#16",
        ReverseDividedTwice,
        Distillation,
        ("options",),
        Contract(
            family="distillation",
            level="token",
            normalizer="global",
            options={"direction": Option(values=("forward", "reverse"))},
        ),
        bare=UNSEEN,
        profile="standard",
    ),
    Fault(
        "X500",
        "a setting read under another key than it is documented by",
        "RLinf/RLinf#316",
        KeyOfAnotherName,
        Focal,
        ("options",),
        Contract(family="supervised", level="token", options={"focus": Option(values=(0.5, 2.0))}),
        bare=UNSEEN,
    ),
    Fault(
        "X501",
        "the entropy of the next action counts where the episode has ended",
        "DLR-RM/stable-baselines3#76",
        entropy_behind_the_end,
        soft_critic,
        ("masking",),
        Contract(family="value", lower_bound=0.0, fields=CRITIC),
        bare=ADVICE,
    ),
    Fault(
        "X502",
        "levels of quantiles along the axis of the targets",
        "BY571/QR-DQN#1",
        LevelsOfTheTargets,
        QuantileRegression,
        ("direction",),
        Contract(family="value", lower_bound=0.0, fields=QUANTILES),
        bare=ADVICE,
    ),
    Fault(
        "X503",
        "document ids are asked for and never looked at",
        "pytorch/torchtitan#4075",
        across_documents,
        within_documents,
        ("options",),
        Contract(family="supervised", level="token"),
        bare=ADVICE,
        advice=True,
    ),
    Fault(
        "X504",
        "of two constants one is detached, and the teacher is not",
        "",
        LiveBesideDetached,
        WeighedDistillation,
        ("gradient_flow",),
        Contract(family="distillation", level="token", surrogate_gradient=True),
        bare=ADVICE,
    ),
)
