"""Mistakes that other settings than those in force show, and other sizes of a portion."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from loss_reference import Contract, Field, LossFunction, Option
from tests.faults.fault import ADVICE, Fault
from tests.faults.parts import kept, pair_mean, pair_weights, pairs, token_mean, token_weights

TOKENS = {
    "log_prob": Field("logprobs", "B T", trainable=True),
    "old_log_prob": Field("logprobs", "B T", trainable=False),
    "response_mask": Field("mask", "B T"),
}


class ForkingTokens(LossFunction):
    """Imitation of the tokens of high entropy; a share of 1 takes all of them."""

    def __init__(self, config=None):
        super().__init__(config)
        self.share = self.config.get("share", 1.0)

    def threshold(self, entropies, active):
        return torch.quantile(entropies[active], 1 - self.share)

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        log_p = kept(model_outputs["logits"][:, :-1], m).log_softmax(-1)
        if self.share < 1 and bool((m != 0).any()):
            entropies = kept(-(log_p.exp() * log_p).sum(-1).detach(), m)
            m = m * (entropies >= self.threshold(entropies, m != 0))
        return token_mean(-log_p.gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1), m, {})


class ThresholdOverPadding(ForkingTokens):
    def threshold(self, entropies, active):
        return torch.quantile(entropies.flatten(), 1 - self.share)


class InBatchNegatives(nn.Module):
    """Each anchor finds its own positive among all, a portion of the anchors at a time."""

    def __init__(self, temperature=0.05, mini_batch_size=32):
        super().__init__()
        self.temperature = temperature
        self.mini_batch_size = mini_batch_size

    def wanted(self, start, end):
        return torch.arange(start, end)

    def forward(self, anchor, positive):
        anchor, positive = F.normalize(anchor, dim=-1), F.normalize(positive, dim=-1)
        losses = []
        for start in range(0, len(anchor), self.mini_batch_size):
            part = anchor[start : start + self.mini_batch_size]
            labels = self.wanted(start, start + len(part)).to(anchor.device)
            losses.append(F.cross_entropy(part @ positive.T / self.temperature, labels, reduction="sum"))
        return torch.stack(losses).sum() / len(anchor)


class CountedFromThePortion(InBatchNegatives):
    def wanted(self, start, end):
        return torch.arange(end - start)


def by_longest_response(log_prob, old_log_prob, advantages, response_mask, loss_agg_mode="mean", max_length=64):
    """A constant instead of the width, in the mode that asks for one."""
    terms = _surrogate(log_prob, old_log_prob, advantages, response_mask)
    if loss_agg_mode == "mean":
        return terms.sum() / response_mask.sum().clamp(min=1)
    return terms.sum() / len(terms) / max_length


def by_width(log_prob, old_log_prob, advantages, response_mask, loss_agg_mode="mean", max_length=64):
    terms = _surrogate(log_prob, old_log_prob, advantages, response_mask)
    if loss_agg_mode == "mean":
        return terms.sum() / response_mask.sum().clamp(min=1)
    return terms.sum() / len(terms) / response_mask.shape[-1]


def _surrogate(log_prob, old_log_prob, advantages, response_mask):
    ratio = (kept(log_prob, response_mask) - kept(old_log_prob.detach(), response_mask)).clamp(-20, 20).exp()
    a = kept(advantages.detach(), response_mask)
    return torch.max(-a * ratio, -a * ratio.clamp(0.8, 1.2)) * response_mask


class Contrast(nn.Module):
    """InfoNCE; the positive is the first of all logits of a row."""

    def __init__(self, temperature=0.1):
        super().__init__()
        self.temperature = temperature

    def logits(self, positive, negatives):
        return torch.cat([positive, negatives], dim=1) / self.temperature

    def forward(self, query, positive_key):
        query, key = F.normalize(query, dim=-1), F.normalize(positive_key, dim=-1)
        positive = (query * key).sum(1, keepdim=True)
        itself = torch.eye(len(query), dtype=torch.bool, device=query.device)
        negatives = (query @ key.T).masked_fill(itself, -torch.inf)
        labels = torch.zeros(len(query), dtype=torch.long, device=query.device)
        return F.cross_entropy(self.logits(positive, negatives), labels)


class PositiveStaysWarm(Contrast):
    def logits(self, positive, negatives):
        return torch.cat([positive, negatives / self.temperature], dim=1)


class AveragedOnRequest(LossFunction):
    """DPO of sums, or of the means over each answer's tokens."""

    def __init__(self, config=None):
        super().__init__(config)
        self.average = self.config.get("preference_average_log_probs", False)

    def divided_by(self, lengths):
        return lengths

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        reference = kept(batch["reference_policy_logprobs"][:, 1:].detach(), m)
        h = ((kept(model_outputs["next_token_logprobs"], m) - reference) * (m != 0)).sum(-1)
        if self.average:
            h = h / self.divided_by((m != 0).sum(-1).clamp(min=1))
        chosen, rejected = pairs(h)
        return pair_mean(F.softplus(-0.1 * (chosen - rejected)), pair_weights(batch, h), batch)


class ByTheChosenLength(AveragedOnRequest):
    def divided_by(self, lengths):
        return lengths[0::2].repeat_interleave(2)


class SampledPolicy(LossFunction):
    """Policy gradient with an entropy bonus, of the policy that samples at a temperature."""

    def __init__(self, config=None):
        super().__init__(config)
        self.temperature = self.config.get("temperature", 0.7)
        self.entropy_coef = self.config.get("entropy_coef", 0.0)

    def scores_of_entropy(self, z):
        return z / self.temperature

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        z = kept(model_outputs["logits"][:, :-1], m)
        log_p = (z / self.temperature).log_softmax(-1)
        sampled = log_p.gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1)
        loss = token_mean(-kept(batch["advantages"][:, 1:].detach(), m) * sampled, m, batch)
        if self.entropy_coef == 0.0:
            return loss
        q = self.scores_of_entropy(z).log_softmax(-1)
        return loss + self.entropy_coef * token_mean((q.exp() * q).sum(-1), m, batch)


class EntropyOfAnotherPolicy(SampledPolicy):
    def scores_of_entropy(self, z):
        return z


FAULTS = (
    Fault(
        "X505",
        "the threshold of a share is taken over padding as well, which the default share hides",
        "huggingface/trl#3709",
        ThresholdOverPadding,
        ForkingTokens,
        ("options",),
        Contract(family="supervised", level="token", coupled=True, options={"share": Option(values=(0.5, 1.0))}),
        bare=ADVICE,
        advice=True,
    ),
    Fault(
        "X506",
        "labels are counted from the start of the portion",
        "huggingface/sentence-transformers#2932",
        CountedFromThePortion,
        InBatchNegatives,
        ("options",),
        Contract(
            family="contrastive",
            coupled=True,
            fields={name: Field("embeddings", "B D", trainable=True) for name in ("anchor", "positive")},
        ),
        bare=ADVICE,
    ),
    Fault(
        "X507",
        "the width of the batch stands where a setting should",
        "verl-project/verl#3741",
        by_width,
        by_longest_response,
        ("options",),
        Contract(
            family="policy_gradient", fields={**TOKENS, "advantages": Field("advantages", "B T", trainable=False)}
        ),
        bare=ADVICE,
        advice=True,
    ),
    Fault(
        "X509",
        "the temperature divides the negatives alone",
        "",
        PositiveStaysWarm,
        Contrast,
        ("options",),
        Contract(
            family="contrastive",
            coupled=True,
            fields={name: Field("embeddings", "B D", trainable=True) for name in ("query", "positive_key")},
        ),
        bare=ADVICE,
        advice=True,
    ),
    Fault(
        "X510",
        "the entropy is that of the policy at temperature 1, behind a coefficient of 0",
        "OpenRLHF/OpenRLHF#1319",
        EntropyOfAnotherPolicy,
        SampledPolicy,
        ("options",),
        Contract(family="policy_gradient", level="token"),
        bare=ADVICE,
        advice=True,
    ),
    Fault(
        "X515",
        "asked for averages, both answers are divided by the length of the chosen one",
        "",
        ByTheChosenLength,
        AveragedOnRequest,
        ("reduction",),
        Contract(family="preference", level="pair"),
        bare=ADVICE,
        advice=True,
    ),
)
