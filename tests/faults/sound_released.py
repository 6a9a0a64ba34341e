"""Correct losses in the manner of released code: margins beside smoothing, risk sets, rows in groups, a device of their own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["RELEASED"]


def simpo_of_tokens(
    chosen_logps,
    rejected_logps,
    chosen_mask,
    rejected_mask,
    beta=2.0,
    gamma_beta_ratio=0.5,
    label_smoothing=0.0,
):
    """With a margin, answers that are alike do not cost the same whichever way they are labelled."""
    chosen, rejected = (
        torch.where(m != 0, lp, 0.0).sum(-1) / (m != 0).sum(-1).clamp(min=1)
        for lp, m in ((chosen_logps, chosen_mask), (rejected_logps, rejected_mask))
    )
    x = beta * (chosen - rejected - gamma_beta_ratio)
    terms = (1 - label_smoothing) * F.softplus(-x) + label_smoothing * F.softplus(x)
    there = (chosen_mask != 0).any(-1) & (rejected_mask != 0).any(-1)
    return torch.where(there, terms, 0.0).sum() / there.sum().clamp(min=1)


def linear_cross_entropy(hidden_states, lm_head_weight, labels, ignore_index=-100):
    """Hidden states of a token predict the next one, as its scores would."""
    kept = labels[:, 1:] != ignore_index
    hidden = torch.where(kept.unsqueeze(-1), hidden_states[:, :-1], 0.0)
    log_p = (hidden @ lm_head_weight.T).log_softmax(-1)
    terms = -log_p.gather(-1, torch.where(kept, labels[:, 1:], 0).unsqueeze(-1)).squeeze(-1)
    return torch.where(kept, terms, 0.0).sum() / kept.sum().clamp(min=1)


def partial_likelihood(log_h, durations, events):
    """Where no event came there is nothing to learn, and nothing to divide by."""
    order = durations.argsort(descending=True)
    risks, came = log_h[order], events[order].to(log_h.dtype)
    return -((risks - risks.logcumsumexp(0)) * came).sum() / came.sum()


def every_order(logits):
    """The answers of one conversation, best first: a single input of which nothing says that its rows may be exchanged."""
    first, second = torch.triu_indices(len(logits), len(logits), 1, device=logits.device)
    return F.softplus(logits[second] - logits[first]).mean()


class TwoAnswersToAPrompt(nn.Module):
    """Rewards against the mean of their group, of two answers."""

    def __init__(self, num_generations=2):
        super().__init__()
        self.num_generations = num_generations

    def forward(self, log_probs, rewards, completion_mask):
        groups = rewards.detach().view(-1, self.num_generations)
        advantages = (groups - groups.mean(1, keepdim=True)).flatten()
        m = completion_mask != 0
        terms = -advantages[:, None] * torch.where(m, log_probs, 0.0)
        return torch.where(m, terms, 0.0).sum() / m.sum().clamp(min=1)


class OnItsOwnDevice(nn.Module):
    """It asks for the device it is to run on, which no simulation can answer."""

    def __init__(self):
        super().__init__()
        self.device = "cuda" if torch.cuda.is_available() else "cpu"

    def forward(self, logits, labels):
        one_hot = F.one_hot(labels, logits.shape[-1]).to(self.device)
        return -(one_hot * logits.log_softmax(-1)).sum(-1).mean()


RELEASED = (
    simpo_of_tokens,
    linear_cross_entropy,
    partial_likelihood,
    every_order,
    TwoAnswersToAPrompt,
    OnItsOwnDevice,
)
