"""Settings that do nothing, do something else, or crash."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from loss_reference import Contract, LossFunction, Option
from tests.faults.fault import ADVICE, FAILED, UNSEEN, Fault
from tests.faults.parts import (
    constant,
    kept,
    policy,
    row_weights,
    token_mean,
    token_weights,
)

PG = "policy_gradient"


class SmoothTriplet(LossFunction):
    """softplus(d+ - d- + margin)."""

    def __init__(self, config=None):
        super().__init__(config)
        self.margin = self.config.get("margin", 0.5)

    def link(self, v):
        return F.softplus(v + self.margin)

    def compute_loss(self, batch, model_outputs):
        x = F.normalize(model_outputs["embeddings"], dim=1, eps=1e-6)
        (i, j), (k, n) = batch["positive_pairs"].T, batch["negative_pairs"].T
        return self.link((x[k] * x[n]).sum(1) - (x[i] * x[j]).sum(1)).mean()


class MarginDropped(SmoothTriplet):
    def link(self, v):
        return torch.log(1 + v.exp())


class Rloo(LossFunction):
    """Leave-one-out REINFORCE; the KL is taken from the reward per token or per sequence."""

    def __init__(self, config=None):
        super().__init__(config)
        self.token_level_kl = self.config.get("token_level_kl", False)

    def shaped(self, reward, kl):
        if self.token_level_kl:
            return reward[:, None] - 0.1 * kl.flip(1).cumsum(1).flip(1)
        return (reward - 0.1 * kl.sum(1))[:, None]

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        lp = policy(model_outputs, m)
        kl = (lp - constant(batch, "reference_policy_logprobs", m)).detach()
        return token_mean(-lp * self.shaped(batch["rewards"].detach(), kl), m, batch)


class SummedFirst(Rloo):
    def shaped(self, reward, kl):
        return (reward - 0.1 * kl.sum(1))[:, None]


class Heated(LossFunction):
    """Policy gradient at the sampling temperature."""

    def __init__(self, config=None):
        super().__init__(config)
        self.temperature = self.config.get("temperature", 0.7)

    def heat(self, z):
        return z / self.temperature

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        z = self.heat(kept(model_outputs["logits"][:, :-1], m))
        lp = z.log_softmax(-1).gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1)
        return token_mean(-lp * constant(batch, "advantages", m), m, batch)


class TemperatureForgotten(Heated):
    def heat(self, z):
        return z


class TwoSided(LossFunction):
    """A learned entropy temperature between two optional bounds."""

    def __init__(self, config=None):
        super().__init__(config)
        self.log_alpha = nn.Parameter(torch.tensor(0.3))
        self.min_alpha = self.config.get("min_alpha", None)
        self.max_alpha = self.config.get("max_alpha", None)

    def bounded(self, alpha):
        if self.min_alpha is not None or self.max_alpha is not None:
            alpha = alpha.clamp(self.min_alpha, self.max_alpha)
        return alpha

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        lp = policy(model_outputs, m)
        return token_mean(self.bounded(self.log_alpha.exp()) * lp.square(), m, batch)


class UpperBoundAlone(TwoSided):
    def bounded(self, alpha):
        if self.min_alpha is not None:
            alpha = alpha.clamp(self.min_alpha, self.max_alpha)
        return alpha


class Penalised(LossFunction):
    """Policy gradient plus beta KL."""

    def __init__(self, config=None):
        super().__init__(config)
        self.beta = self.config.get("beta", 0.1)

    def kl(self, lp, batch, m):
        d = constant(batch, "reference_policy_logprobs", m) - lp
        return (d.clamp(max=20).exp() - 1 - d) * self.beta

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        lp = policy(model_outputs, m)
        terms = self.kl(lp, batch, m)[:, :] - lp * constant(batch, "advantages", m)
        return token_mean(terms, m, batch)


class FloatAtZero(Penalised):
    def kl(self, lp, batch, m):
        return super().kl(lp, batch, m) if self.beta else 0.0


class SoftTargets(LossFunction):
    """Cross-entropy with the teacher's probabilities."""

    def target(self, p):
        return p

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        s = kept(model_outputs["logits"][:, :-1], m).log_softmax(-1)
        p = self.target(kept(batch["teacher_logits"][:, :-1].detach(), m).softmax(-1))
        return token_mean(-torch.where(p > 0, p * s, 0.0).sum(-1), m, batch)


class TargetsArgmaxed(SoftTargets):
    def target(self, p):
        return F.one_hot(p.argmax(-1), p.shape[-1]).to(p)


class Smoothing(LossFunction):
    """NLL plus ``smoothing`` times the mean over the vocabulary of -log p."""

    def __init__(self, config=None):
        super().__init__(config)
        self.smoothing = self.config.get("smoothing", 0.1)

    def smooth(self, s, m, batch):
        return self.smoothing * token_mean(-torch.where(torch.isinf(s), 0.0, s).mean(-1), m, batch)

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        s = kept(model_outputs["logits"][:, :-1], m).log_softmax(-1)
        y = batch["input_ids"][:, 1:].masked_fill(m == 0, 0)
        nll = -s.gather(-1, y.unsqueeze(-1)).squeeze(-1)
        return token_mean(nll, m, batch) + self.smooth(s, m, batch)


class SmoothingByItem(Smoothing):
    """The smoothing term goes through .item(): it moves the value and no gradient."""

    def smooth(self, s, m, batch):
        return super().smooth(s, m, batch).item()


class Clipped(LossFunction):
    """Value loss with a clip of ``cliprange`` around the old values."""

    def __init__(self, config=None):
        super().__init__(config)
        self.cliprange = self.config.get("cliprange", 0.2)

    def clipped(self, v, old):
        return old + (v - old).clamp(-self.cliprange, self.cliprange)

    def compute_loss(self, batch, model_outputs):
        m = batch["token_mask"] * row_weights(batch, batch["token_mask"])[:, None]
        v, old = kept(model_outputs["values"], m), kept(batch["values"].detach(), m)
        r = kept(batch["returns"].detach(), m)
        terms = torch.maximum((v - r).square(), (self.clipped(v, old) - r).square())
        n = batch.get("global_valid_toks", m.sum())
        return (terms * m).sum() / n.clamp(min=1)


class ClipHardCoded(Clipped):
    def clipped(self, v, old):
        return old + (v - old).clamp(-0.2, 0.2)


def described(**options):
    return {name: Option(values=values) for name, values in options.items()}


FAULTS = (
    Fault(
        "B098",
        "log(1 + e^v) without the margin",
        "KevinMusgrave/pytorch-metric-learning@b8e9356",
        MarginDropped,
        SmoothTriplet,
        ("options",),
        Contract(family="contrastive", options=described(margin=(0.5, 1.0))),
        bare=ADVICE,
    ),
    Fault(
        "B157",
        "token-level KL gives the sequence-level result",
        "huggingface/trl@1b1140aa6",
        SummedFirst,
        Rloo,
        ("options",),
        Contract(family=PG, surrogate_gradient=True, options=described(token_level_kl=(False, True))),
        bare=ADVICE,
    ),
    Fault(
        "B159",
        "sampling temperature not applied",
        "huggingface/trl@04f659737",
        TemperatureForgotten,
        Heated,
        ("options",),
        Contract(family=PG, options=described(temperature=(0.7, 1.0))),
        bare=ADVICE,
    ),
    Fault(
        "B163",
        "soft targets arg-maxed",
        "Project-MONAI/MONAI@a215ea6db",
        TargetsArgmaxed,
        SoftTargets,
        ("options",),
        Contract(family="distillation"),
        bare=ADVICE,
        advice=True,
    ),
    Fault(
        "B165",
        "the upper bound alone does nothing",
        "pytorch/rl@ed656a15f",
        UpperBoundAlone,
        TwoSided,
        ("options",),
        Contract(options=described(min_alpha=(None, 1.5), max_alpha=(None, 1.0))),
        bare=UNSEEN,
        advice=True,
    ),
    Fault(
        "B168",
        "beta = 0 is a float that is indexed later",
        "unslothai/unsloth-zoo@3986cf01",
        FloatAtZero,
        Penalised,
        ("options",),
        Contract(family=PG, options=described(beta=(0.1, 0.0))),
        bare=UNSEEN,
    ),
    Fault(
        "X70",
        "smoothing through .item()",
        "",
        SmoothingByItem,
        Smoothing,
        ("options", "gradient_flow"),
        Contract(family="supervised", options=described(smoothing=(0.1, 0.3))),
        bare=FAILED,
    ),
    Fault(
        "X71",
        "clip range hard-coded",
        "",
        ClipHardCoded,
        Clipped,
        ("options",),
        Contract(family="value", options=described(cliprange=(0.2, 0.5))),
        bare=ADVICE,
    ),
)
