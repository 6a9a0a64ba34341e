"""Mistakes behind settings that are off by default: the baseline's branch, the batch, the gradient."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from loss_reference import Contract, Field, Option
from tests.faults.fault import UNSEEN, Fault
from tests.faults.parts import kept

LABELLED = Contract(
    family="preference",
    level="pair",
    normalizer="local",
    baseline="dpo",
    options={"label_smoothing": Option(values=(0.0, 0.1))},
)
OF_TWO_KINDS = Contract(
    family="preference",
    level="pair",
    normalizer="local",
    options={"label_smoothing": Option(values=(0.0, 0.1)), "kind": Option(values=("mixed", "unbiased"))},
)
REGRESSED = Contract(
    family="value",
    level="token",
    normalizer="local",
    lower_bound=0.0,
    fields={
        "values": Field("values", "B T", trainable=True),
        "returns": Field("values", "B T", trainable=False),
        "mask": Field("mask", "B T"),
    },
    options={"standardise": Option(values=(False, True))},
)
SCALED = Contract(
    family="supervised",
    level="sample",
    normalizer="local",
    lower_bound=0.0,
    fields={"logits": Field("logits", "B V", trainable=True), "labels": Field("labels", "B", trainable=False)},
    options={"scale": Option(values=(0.5, 1.0, 2.0))},
)


def gap_of_pairs(
    policy_chosen_logps,
    policy_rejected_logps,
    reference_chosen_logps,
    reference_rejected_logps,
    beta=0.1,
    label_smoothing=0.0,
):
    h_w = policy_chosen_logps - reference_chosen_logps.detach()
    h_l = policy_rejected_logps - reference_rejected_logps.detach()
    x, e = beta * (h_w - h_l), label_smoothing
    return ((1 - e) * F.softplus(-x) + e * F.softplus(x)).mean()


def gap_smoothed_without_beta(
    policy_chosen_logps,
    policy_rejected_logps,
    reference_chosen_logps,
    reference_rejected_logps,
    beta=0.1,
    label_smoothing=0.0,
):
    h_w = policy_chosen_logps - reference_chosen_logps.detach()
    h_l = policy_rejected_logps - reference_rejected_logps.detach()
    x, e = beta * (h_w - h_l), label_smoothing
    return ((1 - e) * F.softplus(-x) + e * F.softplus(h_w - h_l)).mean()


class StandardisedReturns(nn.Module):
    """The squared error of values, of standardised returns if wanted."""

    def __init__(self, standardise=False):
        super().__init__()
        self.standardise = standardise

    def standardised(self, returns, mean, deviation):
        return (returns - mean) / deviation

    def forward(self, values, returns, mask):
        m, targets = mask != 0, returns.detach()
        if self.standardise:
            n = m.sum().clamp(min=1)
            mean = kept(targets, m).sum() / n
            deviation = (kept((targets - mean) ** 2, m).sum() / n + 1e-4).sqrt()
            targets = self.standardised(targets, mean, deviation)
        return kept((kept(values, m) - kept(targets, m)) ** 2, m).sum() / m.sum().clamp(min=1)


class StandardisesInPlace(StandardisedReturns):
    def standardised(self, returns, mean, deviation):
        return returns.sub_(mean).div_(deviation)


class _ScaledCrossEntropy(torch.autograd.Function):
    """The mean cross entropy of scaled scores, its backward written by hand."""

    @staticmethod
    def forward(ctx, logits, labels, scale, scale_of_backward):
        log_p = (scale * logits).log_softmax(-1)
        ctx.save_for_backward(log_p, labels)
        ctx.scale = scale_of_backward
        return F.nll_loss(log_p, labels)

    @staticmethod
    def backward(ctx, upstream):
        log_p, labels = ctx.saved_tensors
        p = log_p.exp() - F.one_hot(labels, log_p.shape[-1])
        return upstream * ctx.scale * p / len(labels), None, None, None


def cross_entropy_of_scaled(logits, labels, scale=1.0):
    return _ScaledCrossEntropy.apply(logits, labels, scale, scale)


def cross_entropy_unscaled_behind(logits, labels, scale=1.0):
    return _ScaledCrossEntropy.apply(logits, labels, scale, 1.0)


def mixed_or_unbiased(chosen_logps, rejected_logps, beta=0.1, label_smoothing=0.1, kind="mixed"):
    x, e = beta * (chosen_logps - rejected_logps), label_smoothing
    straight, flipped = F.softplus(-x), F.softplus(x)
    if kind == "unbiased":
        return (((1 - e) * straight - e * flipped) / (1 - 2 * e)).mean()
    return ((1 - e) * straight + e * flipped).mean()


def mixed_or_added(chosen_logps, rejected_logps, beta=0.1, label_smoothing=0.1, kind="mixed"):
    x, e = beta * (chosen_logps - rejected_logps), label_smoothing
    straight, flipped = F.softplus(-x), F.softplus(x)
    if kind == "unbiased":
        return (((1 - e) * straight + e * flipped) / (1 - 2 * e)).mean()
    return ((1 - e) * straight + e * flipped).mean()


FAULTS = (
    Fault(
        "X532",
        "the flipped pair lacks beta, which no comparison at the default shows",
        "",
        gap_smoothed_without_beta,
        gap_of_pairs,
        ("baseline",),
        LABELLED,
        bare=UNSEEN,
    ),
    Fault(
        "X533",
        "the returns are standardised in place, if at all",
        "",
        StandardisesInPlace,
        StandardisedReturns,
        ("options",),
        REGRESSED,
    ),
    Fault(
        "X534",
        "a backward written by hand leaves out the scale, which is 1 by default",
        "ServiceNow/Fast-LLM#228",
        cross_entropy_unscaled_behind,
        cross_entropy_of_scaled,
        ("options",),
        SCALED,
    ),
    Fault(
        "X535",
        "the flipped pair is added where the unbiased estimate takes it off",
        "",
        mixed_or_added,
        mixed_or_unbiased,
        ("options",),
        OF_TWO_KINDS,
        bare=UNSEEN,
        profile="standard",
    ),
)
