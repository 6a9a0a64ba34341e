"""Correct losses with a contract as a careful user writes one, which leaves open what may be measured."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from loss_reference import Contract, Field, LossFunction, Option
from tests.faults.parts import kept, pair_mean, pair_weights, pairs, token_mean, token_weights

LOGITS = Field("logits", "B S V", trainable=True)


class SecondHead(LossFunction):
    """Entry t of a second head predicts token t + 2; which mapping it arrives in is for the loss to show."""

    contract = Contract(
        family="supervised", level="token", fields={"second_logits": Field("logits", "B S V", speaks_of="later")}
    )

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)[:, 1:]
        log_p = kept(model_outputs["second_logits"][:, :-2], m).log_softmax(-1)
        return token_mean(-log_p.gather(-1, batch["input_ids"][:, 2:, None]).squeeze(-1), m, {})


class FullDivergencePreference(LossFunction):
    """DPO with the divergence of whole distributions; declares a field of the vocabulary again."""

    contract = Contract(
        family="preference",
        level="pair",
        surrogate_gradient=True,
        fields={"reference_logits": Field("logits", "B S V")},
    )

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        model, reference = (
            kept(logits[:, :-1], m).log_softmax(-1)
            for logits in (model_outputs["logits"], batch["reference_logits"].detach())
        )
        ids, never = batch["input_ids"][:, 1:, None], torch.isinf(reference)
        apart = torch.where(never, 0.0, reference - model.masked_fill(never, 0.0))
        divergence = ((reference.exp() * apart).sum(-1) * m).sum(1)
        h = ((model - reference.masked_fill(never, 0.0)).gather(-1, ids).squeeze(-1) * m).sum(1)
        (chosen, rejected), (near, far) = pairs(h), pairs(divergence)
        return pair_mean(F.softplus(-0.1 * (chosen - rejected - (far - near.detach()))), pair_weights(batch, h), {})


class PairOfSequences(nn.Module):
    """DPO of two sequences each; the logits of a position are those of the next token, which nobody declared."""

    contract = Contract(
        family="preference",
        level="pair",
        fields={
            **{f"{side}_logits": LOGITS for side in ("chosen", "rejected")},
            **{f"{side}_ids": Field("token_ids", "B S") for side in ("chosen", "rejected")},
            **{f"{side}_mask": Field("mask", "B S") for side in ("chosen", "rejected")},
            "reference_margin": Field("values", "B", trainable=False),
        },
    )

    def forward(
        self, chosen_logits, rejected_logits, chosen_ids, rejected_ids, chosen_mask, rejected_mask, reference_margin
    ):
        chosen = self._logp(chosen_logits, chosen_ids, chosen_mask)
        rejected = self._logp(rejected_logits, rejected_ids, rejected_mask)
        return F.softplus(-0.1 * (chosen - rejected - reference_margin.detach())).mean()

    def _logp(self, logits, ids, mask):
        m = mask[:, 1:]
        log_p = kept(logits[:, :-1], m).log_softmax(-1)
        return (log_p.gather(-1, ids[:, 1:, None]).squeeze(-1) * m).sum(1)


def divided_by_the_width(log_prob, old_log_prob, advantages, response_mask, scale=None, clip=0.2):
    """A policy gradient whose tokens are divided by the longest answer there may be, or the width of the batch."""
    keep = response_mask != 0
    ratio = torch.where(keep, log_prob - old_log_prob.detach(), 0.0).clamp(-20, 20).exp()
    advantage = torch.where(keep, advantages.detach(), 0.0)
    terms = -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage) * response_mask
    return terms.sum() / keep.any(1).sum().clamp(min=1) / (response_mask.shape[1] if scale is None else scale)


divided_by_the_width.contract = Contract(
    family="policy_gradient",
    level="sequence",
    fields={
        "log_prob": Field("logprobs", "B S", trainable=True),
        "old_log_prob": Field("logprobs", "B S", trainable=False),
        "advantages": Field("advantages", "B S"),
        "response_mask": Field("mask", "B S"),
    },
)


class SwitchRouter(nn.Module):
    """Shares of tokens times mean probabilities; which expert is second best is a tie where all but one vanish."""

    contract = Contract(
        family="auxiliary",
        coupled=True,
        fields={"gate": Field("logits", "B S V", trainable=True), "mask": Field("mask", "B S")},
    )

    def forward(self, gate, mask):
        p = kept(gate, mask).softmax(-1)
        chosen = F.one_hot(p.topk(min(2, p.shape[-1]), dim=-1).indices, p.shape[-1]).sum(-2).to(p.dtype)
        n = mask.sum().clamp(min=1)
        share, mean = ((x * mask[..., None]).sum((0, 1)) / n for x in (chosen.detach(), p))
        return (share * mean).sum() * p.shape[-1]


class LanguageModelWithRouter(nn.Module):
    """The mask is for the router; labels say themselves what is ignored."""

    contract = Contract(
        family="composite",
        level="token",
        coupled=True,
        fields={
            "logits": LOGITS,
            "labels": Field("labels", "B S"),
            "router": Field("logits", "B S E", trainable=True),
            "attention_mask": Field("mask", "B S"),
        },
    )

    def forward(self, logits, labels, router, attention_mask):
        counted = (labels != -100).sum().clamp(min=1)
        nll = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum") / counted
        spread = kept(router.logsumexp(-1).square(), attention_mask).sum() / attention_mask.sum().clamp(min=1)
        return nll + 0.01 * spread


class FreeNats(nn.Module):
    """A divergence of which half a nat each is free."""

    contract = Contract(
        level="sample", fields={name: Field("values", "B D", trainable=True) for name in ("mu", "logvar")}
    )

    def forward(self, mu, logvar):
        logvar = logvar.clamp(-20.0, 20.0)
        return (0.5 * (mu.square() + logvar.exp() - 1 - logvar)).mean(0).clamp(min=0.5).sum()


def proportional_hazards(risk, durations, events):
    """Whoever lives as long or longer is at risk, whether the event came or not."""
    longer = durations[None, :] >= durations[:, None]
    at_risk = torch.where(longer, risk[None, :], -math.inf).logsumexp(1)
    return ((at_risk - risk) * events).sum() / events.sum().clamp(min=1)


proportional_hazards.contract = Contract(
    coupled=True,
    fields={
        "risk": Field("values", "B", trainable=True),
        "durations": Field("values", "B", trainable=False),
        "events": Field("mask", "B"),
    },
)


def partial_likelihood(log_risk, event, time):
    """The same, declared as supervised: the time is no target, although it has the shape of one."""
    return proportional_hazards(log_risk, time, event)


partial_likelihood.contract = Contract(
    family="supervised",
    level="sample",
    lower_bound=0.0,
    coupled=True,
    fields={
        "log_risk": Field("values", "B", trainable=True),
        "event": Field("labels", "B"),
        "time": Field("values", "B", trainable=False),
    },
)


def density(input, target, precision, full=False):
    """The constant of the normal density is left out or not."""
    precision = precision.clamp(min=1e-3)
    terms = 0.5 * (precision * (input - target.detach()).square() - precision.log())
    return (terms + 0.5 * math.log(2 * math.pi) if full else terms).mean()


density.contract = Contract(
    fields={
        "input": Field("values", "B D", trainable=True),
        "target": Field("values", "B D", trainable=False),
        "precision": Field("weights", "B D"),
    },
    options={"full": Option(values=(False, True))},
)


class Pinball(nn.Module):
    """Several quantiles of one number."""

    def __init__(self):
        super().__init__()
        self.register_buffer("quantiles", torch.tensor([0.1, 0.5, 0.9]))

    def forward(self, preds, target):
        error = target.detach()[:, None] - preds
        return torch.maximum(self.quantiles * error, (self.quantiles - 1) * error).sum(1).mean()


DECLARED = (
    SecondHead,
    FullDivergencePreference,
    PairOfSequences,
    divided_by_the_width,
    SwitchRouter,
    LanguageModelWithRouter,
    FreeNats,
    proportional_hazards,
    partial_likelihood,
    density,
    Pinball,
)
