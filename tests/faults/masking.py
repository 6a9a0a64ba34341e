"""Masks: too late, shifted, one-sided, or forgotten."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from loss_reference import Contract, LossFunction
from tests.faults.fault import Fault
from tests.faults.parts import (
    kept,
    pair_mean,
    pair_weights,
    pairs,
    policy,
    row_mean,
    row_weights,
    token_mean,
    token_weights,
)

SFT = Contract(family="supervised", level="token", normalizer="global", lower_bound=0.0)
PG = Contract(family="policy_gradient", level="token", normalizer="global")
DPO = Contract(family="preference", level="pair", normalizer="global", lower_bound=0.0)
KD = Contract(family="distillation", level="token", normalizer="global", lower_bound=0.0)


class Nll(LossFunction):
    """-mean lp over trained tokens."""

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        return token_mean(-policy(model_outputs, m), m, batch)


class NanTimesMask(LossFunction):
    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        n = batch.get("global_valid_toks", m.sum())
        return (-model_outputs["next_token_logprobs"] * m).sum() / n.clamp(min=1)


class MeanOverPadding(LossFunction):
    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        return (-policy(model_outputs, m) * m).mean()


class LocalNll(LossFunction):
    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        return (-policy(model_outputs, m) * m).sum() / m.sum().clamp(min=1)


class MaskNotShifted(LossFunction):
    def compute_loss(self, batch, model_outputs):
        m = batch["token_mask"][:, :-1] * row_weights(batch, batch["token_mask"])[:, None]
        return token_mean(-policy(model_outputs, m), m, batch)


class LastTokenLeftOut(LossFunction):
    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        followed = torch.cat((m[:, 1:], torch.zeros_like(m[:, :1])), 1)
        m = m * (followed != 0)
        return token_mean(-policy(model_outputs, m), m, batch)


class RowsCountedNotWeighed(LossFunction):
    def compute_loss(self, batch, model_outputs):
        m = batch["token_mask"][:, 1:]
        w = batch["sample_mask"]
        lengths = m.sum(1).clamp(min=1)
        return ((-policy(model_outputs, m * w[:, None])).sum(1) / lengths * w).mean()


class RowsWeighed(LossFunction):
    def compute_loss(self, batch, model_outputs):
        m = batch["token_mask"][:, 1:]
        w = batch["sample_mask"]
        lengths = m.sum(1).clamp(min=1)
        return row_mean((-policy(model_outputs, m * w[:, None])).sum(1) / lengths, w, batch)


class OrpoNll(LossFunction):
    """A preference term plus the NLL of the chosen sequence."""

    def nll_mask(self, m):
        return m

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        lp = policy(model_outputs, m)
        mean = lp.sum(1) / m.sum(1).clamp(min=1)
        chosen, rejected = pairs(mean)
        prefer = F.softplus(rejected - chosen)
        n = self.nll_mask(m)[0::2]
        own = kept(model_outputs["next_token_logprobs"][0::2], n)
        nll = -own.sum(1) / n.sum(1).clamp(min=1)
        return pair_mean(prefer + nll, pair_weights(batch, mean), batch)


class OrpoNllOnPrompt(OrpoNll):
    def nll_mask(self, m):
        return torch.ones_like(m)


class SoftMaximum(LossFunction):
    """The masked log-sum-exp of the values of a row, minus the mean of its returns."""

    def log_sum_exp(self, x, m):
        return torch.where(m != 0, x, float("-inf")).logsumexp(1)

    def compute_loss(self, batch, model_outputs):
        m = batch["token_mask"] * row_weights(batch, batch["token_mask"])[:, None]
        some = (m != 0).any(1)
        inside = torch.where(some[:, None], m, torch.ones_like(m))
        x = torch.where(some[:, None], model_outputs["values"], 0.0)
        top = self.log_sum_exp(x, inside)
        target = kept(batch["returns"], m).sum(1).detach()
        w = some.to(m) * row_weights(batch, m)
        return row_mean((top - target).square(), w, batch)


class MaximumOfMasked(SoftMaximum):
    def log_sum_exp(self, x, m):
        largest = x.amax(1, keepdim=True)
        return ((x - largest).exp() * (m != 0)).sum(1).log() + largest.squeeze(1)


class IgnoreIndexHardCoded(torch.nn.Module):
    """Cross-entropy whose ignored label is configurable."""

    def __init__(self, ignore_index=0):
        super().__init__()
        self.ignore_index = ignore_index

    def forward(self, logits, labels):
        return F.cross_entropy(logits, labels)


class IgnoreIndexUsed(IgnoreIndexHardCoded):
    def forward(self, logits, labels):
        n = (labels != self.ignore_index).sum().clamp(min=1)
        return F.cross_entropy(logits, labels, ignore_index=self.ignore_index, reduction="sum") / n


FAULTS = (
    Fault(
        "B001", "sum(x m) for sum(where(m, x, 0))", "volcengine/verl@5cbad8379", NanTimesMask, Nll, ("masking",), SFT
    ),
    Fault(
        "B011",
        "masked log-sum-exp subtracts the maximum of masked entries too",
        "KevinMusgrave/pytorch-metric-learning@36bedc3",
        MaximumOfMasked,
        SoftMaximum,
        ("masking",),
        Contract(level="sequence", normalizer="global", lower_bound=0.0),
    ),
    Fault(
        "B016",
        "NLL term trains on the prompt",
        "huggingface/trl@88ad1a099",
        OrpoNllOnPrompt,
        OrpoNll,
        ("masking",),
        DPO,
    ),
    Fault(
        "B017",
        "the ignored label is configurable and not used",
        "huggingface/trl@10f70fa33",
        IgnoreIndexHardCoded,
        IgnoreIndexUsed,
        ("masking", "finite", "reduction"),
        Contract(family="supervised", lower_bound=0.0),
    ),
    Fault(
        "B023",
        "the last trained token (EOS) is masked out",
        "OpenRLHF/OpenRLHF@37aad73e",
        LastTokenLeftOut,
        Nll,
        ("masking",),
        SFT,
    ),
    Fault(
        "B024",
        "mask not shifted with the log-probabilities",
        "CarperAI/trlx@fbc9e04",
        MaskNotShifted,
        Nll,
        ("masking",),
        SFT,
    ),
    Fault("X01", "mean over padding", "", MeanOverPadding, LocalNll, ("masking",), Contract(family="supervised")),
    Fault(
        "X02",
        "absent rows count in the mean",
        "pytorch/rl@65702c58a",
        RowsCountedNotWeighed,
        RowsWeighed,
        ("masking",),
        Contract(family="supervised", level="sequence"),
    ),
)
