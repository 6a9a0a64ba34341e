"""Mistakes in what is mixed, weighted and left out: shares, weights of entries, the least over a padded row, groups."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from loss_reference import Contract, Field, Option
from tests.faults.fault import ADVICE, Fault
from tests.faults.indifferent import NoisyLabels

WEIGHTED = Contract(
    fields={
        "score": Field("values", "B", trainable=True),
        "label": Field("values", "B"),
        "weights": Field("weights", "B"),
    }
)
SIDES = ("chosen", "rejected")
STEPS = Contract(
    level="pair",
    lower_bound=0.0,
    fields={
        **{f"{side}_step_rewards": Field("values", "N T", trainable=True) for side in SIDES},
        **{f"{side}_step_mask": Field("mask", "N T") for side in SIDES},
    },
)
JUDGED = Contract(
    fields={"scores": Field("values", "B D", trainable=True), "relevance": Field("rewards", "B D", trainable=False)},
    lower_bound=0.0,
)
GROUPED = Contract(
    group_size=4,
    coupled=True,
    fields={
        "log_prob": Field("logprobs", "B T", trainable=True),
        "scores": Field("rewards", "B", trainable=False),
        "response_mask": Field("mask", "B T"),
    },
    options={"divide_by_deviation": Option(values=(True, False))},
)


class Conservative(NoisyLabels):
    def terms(self, z):
        return -(1 - self.eps) * F.logsigmoid(z) - self.eps * F.logsigmoid(-z)


class MixedInside(Conservative):
    def terms(self, z):
        return -F.logsigmoid((1 - self.eps) * z - self.eps * z)


def _error(score, label):
    return label.detach().square() * (-score.clamp(-30.0, 30.0)).exp()


def whole_terms_weighted(score, label, weights):
    return (weights.detach() * (score + _error(score, label))).mean()


def one_part_weighted(score, label, weights):
    return (score + weights.detach() * _error(score, label)).mean()


class WorstStep(nn.Module):
    """Bradley-Terry on the worst step of each answer."""

    beside = float("inf")

    def forward(self, chosen_step_rewards, rejected_step_rewards, chosen_step_mask, rejected_step_mask):
        judged = (chosen_step_mask != 0).any(1) & (rejected_step_mask != 0).any(1)
        chosen = self._worst(chosen_step_rewards, chosen_step_mask, judged)
        rejected = self._worst(rejected_step_rewards, rejected_step_mask, judged)
        return torch.where(judged, -F.logsigmoid(chosen - rejected), 0.0).sum() / judged.sum().clamp(min=1)

    def _worst(self, rewards, mask, judged):
        return torch.where(judged, torch.where(mask != 0, rewards, self.beside).amin(1), 0.0)


class PaddingIsAStep(WorstStep):
    beside = 0.0


class RankedPairs(nn.Module):
    """RankNet over the ordered pairs of every list."""

    def forward(self, scores, relevance):
        ordered = relevance[:, :, None] > relevance[:, None, :]
        terms = F.softplus(scores[:, None, :] - scores[:, :, None])
        return self.mean(terms, ordered)

    def mean(self, terms, ordered):
        return torch.where(ordered, terms, 0.0).sum() / ordered.sum().clamp(min=1)


class MeanOfNoPairs(RankedPairs):
    def mean(self, terms, ordered):
        return terms[ordered].mean()


def group_relative(log_prob, scores, response_mask, group_size=4, divide_by_deviation=True):
    keep, grouped = response_mask != 0, scores.detach().reshape(-1, group_size)
    centred = grouped - grouped.mean(1, keepdim=True)
    if divide_by_deviation:
        centred = centred / (centred.square().mean(1, keepdim=True).sqrt() + 1e-6)
    terms = -centred.reshape(-1, 1) * torch.where(keep, log_prob, 0.0)
    return (terms * response_mask).sum() / response_mask.sum().clamp(min=1)


def group_relative_whatever_is_said(log_prob, scores, response_mask, group_size=4, divide_by_deviation=True):
    return group_relative(log_prob, scores, response_mask, group_size)


FAULTS = (
    Fault(
        "X494",
        "two smoothed terms mixed inside the log-sigmoid",
        "",
        MixedInside,
        Conservative,
        ("options",),
        Contract(family="preference", level="pair", normalizer="local"),
        bare=ADVICE,
    ),
    Fault(
        "X495",
        "the weight of an entry multiplies one of the two parts of its term",
        "lightgbm-org/LightGBM#4174",
        one_part_weighted,
        whole_terms_weighted,
        ("reduction",),
        WEIGHTED,
        bare=ADVICE,
        advice=True,
    ),
    Fault(
        "X496",
        "masked steps count as 0 in the least over the steps",
        "",
        PaddingIsAStep,
        WorstStep,
        ("masking",),
        STEPS,
    ),
    Fault(
        "X497",
        "the mean over the ordered pairs of a batch that has none",
        "huggingface/sentence-transformers#4032",
        MeanOfNoPairs,
        RankedPairs,
        ("finite",),
        JUDGED,
    ),
    Fault(
        "X498",
        "whether to divide by the deviation of the group is not handed on",
        "verl-project/verl#7893",
        group_relative_whatever_is_said,
        group_relative,
        ("options",),
        GROUPED,
        bare=ADVICE,
    ),
)
