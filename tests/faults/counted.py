"""Mistakes in what counts, and how often: weights, dropped answers, padding, and a row beside itself."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from loss_reference import Contract, Field
from tests.faults.fault import ADVICE, Fault
from tests.faults.parts import kept

TOKENS = {
    "log_prob": Field("logprobs", "B T", trainable=True),
    "old_log_prob": Field("logprobs", "B T", trainable=False),
    "response_mask": Field("mask", "B T"),
}


class WeightedHits(nn.Module):
    """Binary cross entropy, each entry with a weight of its own."""

    def terms(self, input, target, weight):
        return F.binary_cross_entropy_with_logits(input, target, reduction="none")

    def forward(self, input, target, weight):
        return (self.terms(input, target, weight) * weight).mean()


class WeighedTwice(WeightedHits):
    def terms(self, input, target, weight):
        return F.binary_cross_entropy_with_logits(input, target, weight=weight, reduction="none")


class RankedItems(nn.Module):
    """Each user ranks the own item above those of the others in the batch."""

    def mean(self, losses):
        others = ~torch.eye(len(losses), dtype=torch.bool, device=losses.device)
        return torch.where(others, losses, 0.0).sum() / others.sum().clamp(min=1)

    def forward(self, user_embeddings, item_embeddings):
        scores = user_embeddings @ item_embeddings.T
        return self.mean(-F.logsigmoid(scores.diagonal()[:, None] - scores))


class RankedAboveItself(RankedItems):
    def mean(self, losses):
        return losses.mean()


class GeometricRatio(nn.Module):
    """One ratio per answer; answers that were dropped have no token left."""

    def present(self, terms, there):
        return torch.where(there, terms, 0.0)

    def forward(self, log_prob, old_log_prob, advantages, response_mask):
        count = response_mask.sum(-1)
        h = kept(log_prob, response_mask) - kept(old_log_prob.detach(), response_mask)
        ratio = (h.clamp(-20, 20).sum(-1) / count.clamp(min=1)).exp()
        terms = self.present(-advantages.detach() * ratio, count > 0)
        return terms.sum() / (count > 0).sum().clamp(min=1)


class DroppedAnswersCount(GeometricRatio):
    def present(self, terms, there):
        return terms


class SmoothedTokens(nn.Module):
    """Next-token loss with smoothed labels; -100 is left out."""

    def __init__(self, epsilon=0.1):
        super().__init__()
        self.epsilon = epsilon

    def uniform(self, terms, active):
        return terms.sum() / active.sum().clamp(min=1)

    def forward(self, logits, labels):
        labels = labels[:, 1:]
        active = labels != -100
        log_p = kept(logits[:, :-1], active).log_softmax(-1)
        nll = kept(-log_p.gather(-1, torch.where(active, labels, 0)[..., None]).squeeze(-1), active)
        uniform = self.uniform(kept(-log_p.mean(-1), active), active)
        return (1 - self.epsilon) * nll.sum() / active.sum().clamp(min=1) + self.epsilon * uniform


class UniformOverPadding(SmoothedTokens):
    def uniform(self, terms, active):
        return terms.mean()


class ScaleInvariant(nn.Module):
    """Depth up to a factor: mean(d^2) - f mean(d)^2 over the pixels that were measured."""

    def __init__(self, focus=0.85):
        super().__init__()
        self.focus = focus

    def mean(self, d, count):
        return d.sum(1) / count

    def forward(self, input, target, mask):
        there = (mask != 0).flatten(1)
        d = torch.where(there, input.flatten(1), 0.0) - torch.where(there, target.detach().flatten(1), 0.0)
        count = there.sum(1).clamp(min=1)
        return (d.square().sum(1) / count - self.focus * self.mean(d, count).square()).mean()


class MeanOfAllPixels(ScaleInvariant):
    def mean(self, d, count):
        return d.mean(1)


FAULTS = (
    Fault(
        "X508",
        "the weight of an entry is multiplied in twice",
        "open-mmlab/mmdetection#845",
        WeighedTwice,
        WeightedHits,
        ("reduction",),
        Contract(
            family="supervised",
            fields={
                "input": Field("logits", "B D", trainable=True),
                "target": Field("probabilities", "B D", trainable=False),
                "weight": Field("weights", "B D"),
            },
        ),
        bare=ADVICE,
        advice=True,
    ),
    Fault(
        "X511",
        "the advantage of an answer of which nothing is left is added as it is",
        "huggingface/trl#6095",
        DroppedAnswersCount,
        GeometricRatio,
        ("masking",),
        Contract(family="policy_gradient", fields={**TOKENS, "advantages": Field("advantages", "B", trainable=False)}),
        bare=ADVICE,
        advice=True,
    ),
    Fault(
        "X512",
        "the smoothing term is a mean over padding, the labels declared as token ids",
        "eladhoffer/utils.pytorch#4",
        UniformOverPadding,
        SmoothedTokens,
        ("masking",),
        Contract(
            family="supervised",
            level="token",
            fields={
                "logits": Field("logits", "B S V", trainable=True, speaks_of="next"),
                "labels": Field("token_ids", "B S"),
            },
        ),
    ),
    Fault(
        "X513",
        "the mean of a picture is taken over all of its pixels",
        "",
        MeanOfAllPixels,
        ScaleInvariant,
        ("masking",),
        Contract(
            family="supervised",
            fields={
                "input": Field("values", "B H W", trainable=True),
                "target": Field("values", "B H W", trainable=False),
                "mask": Field("mask", "B H W"),
            },
        ),
    ),
    Fault(
        "X514",
        "each item is ranked above itself as well: the diagonal is left in",
        "",
        RankedAboveItself,
        RankedItems,
        ("positivity",),
        Contract(
            family="contrastive",
            coupled=True,
            fields={
                name: Field("embeddings", "B D", trainable=True) for name in ("user_embeddings", "item_embeddings")
            },
        ),
        bare=ADVICE,
        advice=True,
    ),
)
