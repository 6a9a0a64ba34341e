"""Correct losses that choose: between bounds that hardly anything lies between, by an order, by detached thresholds."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loss_reference import Contract, Field, LossFunction

__all__ = [
    "CHOICES",
    "FocalByConfidence",
    "MarginBradleyTerry",
    "OrdinalRegression",
    "PenalisedLogits",
    "SetPrediction",
    "clipped_critic",
    "varifocal",
]


class NarrowSequenceClip(LossFunction):
    """One ratio per answer, clipped a few ten-thousandths from 1: off policy every answer is beyond a bound."""

    def __init__(self, config=None):
        super().__init__(config)
        self.low, self.high = self.config.get("clip_low", 3e-4), self.config.get("clip_high", 4e-4)

    def compute_loss(self, batch, model_outputs):
        mask, rows = batch["token_mask"][:, 1:], batch["sample_mask"]
        keep, length = mask * rows[:, None] != 0, mask.sum(-1).clamp(min=1)
        log_ratio = torch.where(keep, model_outputs["next_token_logprobs"] - batch["prev_logprobs"][:, 1:], 0.0)
        advantage = torch.where(keep, batch["advantages"][:, 1:], 0.0).sum(-1) / length
        ratio = (log_ratio.sum(-1) / length).clamp(-20, 10).exp()
        gain = torch.minimum(ratio * advantage, ratio.clamp(1 - self.low, 1 + self.high) * advantage)
        return -(gain * rows).sum() / rows.sum().clamp(min=1)


def clipped_critic(vpreds, returns, values, response_mask, cliprange_value=0.5):
    """At the edge of the range both squares are alike, and backward gives each of them half."""
    keep = response_mask != 0
    new, goal, old = (torch.where(keep, x, 0.0) for x in (vpreds, returns.detach(), values.detach()))
    clipped = torch.minimum(torch.maximum(new, old - cliprange_value), old + cliprange_value)
    worst = torch.maximum((new - goal).square(), (clipped - goal).square())
    return 0.5 * (worst * response_mask).sum() / response_mask.sum().clamp(min=1)


class OrdinalRegression(nn.Module):
    """Score k answers whether the class is above k: the score of the label itself should fall."""

    def forward(self, logits, labels):
        above = (labels.unsqueeze(-1) > torch.arange(logits.shape[-1], device=logits.device)).to(logits.dtype)
        keep = labels != -100
        scores = torch.where(keep.unsqueeze(-1), logits, 0.0)
        terms = F.binary_cross_entropy_with_logits(scores, above, reduction="none").sum(-1)
        return torch.where(keep, terms, 0.0).sum() / keep.sum().clamp(min=1)


class FocalByConfidence(nn.Module):
    """The focus depends on a detached threshold, at which the loss jumps on purpose."""

    def forward(self, logits, labels):
        keep = labels != -100
        scores = torch.where(keep.unsqueeze(-1), logits, 0.0)
        lp = F.log_softmax(scores, dim=-1).gather(-1, torch.where(keep, labels, 0).unsqueeze(-1)).squeeze(-1)
        missed = -torch.expm1(lp)
        weight = torch.where(lp.detach().exp() < 0.2, missed.pow(5), missed.pow(3))
        return torch.where(keep, -weight * lp, 0.0).sum() / keep.sum().clamp(min=1)


class MarginBradleyTerry(LossFunction):
    """Bradley-Terry with a constant margin: its namesake where that is 0."""

    def __init__(self, config=None):
        super().__init__(config)
        self.margin = self.config.get("margin", 0.5)

    def compute_loss(self, batch, model_outputs):
        rewards, rows = model_outputs["rewards"], batch["sample_mask"]
        weight = torch.minimum(rows[0::2], rows[1::2])
        difference = torch.where(weight != 0, rewards[0::2] - rewards[1::2], 0.0)
        return (-F.logsigmoid(difference - self.margin) * weight).sum() / weight.sum().clamp(min=1)


class PenalisedLogits(LossFunction):
    """Cross-entropy with the squared log-normaliser, which alone sees all logits of a position shifted."""

    def __init__(self, config=None):
        super().__init__(config)
        self.weight = self.config.get("z_loss_weight", 1e-3)

    def compute_loss(self, batch, model_outputs):
        mask = batch["token_mask"][:, 1:] * batch["sample_mask"][:, None]
        logits = torch.where((mask != 0).unsqueeze(-1), model_outputs["logits"][:, :-1], 0.0)
        log_z = logits.logsumexp(-1)
        nll = log_z - logits.gather(-1, batch["input_ids"][:, 1:].unsqueeze(-1)).squeeze(-1)
        return ((nll + self.weight * log_z.square()) * mask).sum() / mask.sum().clamp(min=1)


def varifocal(logits, target, alpha=0.75, gamma=2.0):
    """Positives weighted by their quality, negatives by alpha and their own probability."""
    quality = target.detach().clamp(0, 1)
    weight = torch.where(quality > 0, quality, alpha * torch.sigmoid(logits).pow(gamma))
    terms = F.binary_cross_entropy_with_logits(logits, quality, reduction="none")
    return (weight * terms).sum() / (quality > 0).sum().clamp(min=1)


varifocal.contract = Contract(
    fields={"logits": Field("logits", "B Q"), "target": Field("probabilities", "B Q", trainable=False)}, lower_bound=0.0
)


class SetPrediction(nn.Module):
    """Objects get the cheapest assignment of queries; a picture without objects still has its background."""

    contract = Contract(
        fields={
            "logits": Field("logits", "B 4 2"),
            "pred_boxes": Field("values", "B 4 4", trainable=True),
            "boxes": Field("values", "B 2 4", trainable=False),
            "present": Field("mask", "B 2"),
        }
    )

    def forward(self, logits, pred_boxes, boxes, present):
        log_p = F.log_softmax(logits, dim=-1)
        found, distances = torch.zeros(log_p.shape[:2], dtype=torch.long, device=log_p.device), []
        for row in range(len(log_p)):
            objects = (present[row] != 0).nonzero().squeeze(-1)
            distance = (boxes[row, objects].sigmoid()[:, None] - pred_boxes[row].sigmoid()[None]).abs().sum(-1)
            queries = _cheapest(distance.detach() - log_p[row, :, 1].detach().exp())
            found[row, queries] = 1
            distances.append(distance[torch.arange(len(objects)), queries].sum())
        nll = -log_p.gather(-1, found.unsqueeze(-1)).squeeze(-1)
        return nll.mean() + torch.stack(distances).sum() / (present != 0).sum().clamp(min=1)


def _cheapest(cost: Tensor) -> Tensor:
    objects, queries = cost.shape
    ways = torch.tensor(list(itertools.permutations(range(queries), objects)), dtype=torch.long)
    ways = ways.reshape(-1, objects)
    return ways[cost[torch.arange(objects), ways].sum(-1).argmin()]


CHOICES = (
    NarrowSequenceClip,
    clipped_critic,
    OrdinalRegression,
    FocalByConfidence,
    MarginBradleyTerry,
    PenalisedLogits,
)
