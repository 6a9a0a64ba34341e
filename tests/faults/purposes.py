"""Settings that do something else than their name says."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from loss_reference import Contract, Field, LossFunction, Option
from tests.faults.fault import ADVICE, Fault
from tests.faults.parts import kept, token_mean, token_weights

REWARDS = {
    "rewards_chosen": Field("rewards", "N", trainable=True),
    "rewards_rejected": Field("rewards", "N", trainable=True),
}


class Smoothed(LossFunction):
    """NLL with label smoothing."""

    def __init__(self, config=None):
        super().__init__(config)
        self.label_smoothing = self.config.get("label_smoothing", 0.1)

    def share(self):
        return self.label_smoothing

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        lp = kept(model_outputs["logits"][:, :-1], m).log_softmax(-1)
        nll = -lp.gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1)
        uniform = -torch.where(torch.isinf(lp), 0.0, lp).mean(-1)
        return token_mean((1 - self.label_smoothing) * nll + self.share() * uniform, m, batch)


class UniformUnweighted(Smoothed):
    def share(self):
        return 1.0


def _pair(chosen, rejected):
    return -F.logsigmoid(chosen - rejected)


def centred_sum(rewards_chosen, rewards_rejected, center_coefficient=0.01):
    centre = (rewards_chosen + rewards_rejected) ** 2
    return (_pair(rewards_chosen, rewards_rejected) + center_coefficient * centre).mean()


def centred_difference(rewards_chosen, rewards_rejected, center_coefficient=0.01):
    centre = (rewards_chosen - rewards_rejected) ** 2
    return (_pair(rewards_chosen, rewards_rejected) + center_coefficient * centre).mean()


class SoftAndHard(LossFunction):
    """KL to a softened teacher beside the cross-entropy of the labels."""

    def __init__(self, config=None):
        super().__init__(config)
        self.alpha = self.config.get("alpha", 0.5)
        self.temperature = self.config.get("temperature", 2.0)

    def hard(self, logits):
        return logits

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        logits = kept(model_outputs["logits"][:, :-1], m)
        s = (logits / self.temperature).log_softmax(-1).clamp(min=-1e30)
        t = (kept(batch["teacher_logits"][:, :-1].detach(), m) / self.temperature).log_softmax(-1).clamp(min=-1e30)
        soft = (t.exp() * (t - s)).sum(-1) * self.temperature**2
        nll = -self.hard(logits).log_softmax(-1).gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1)
        return token_mean(self.alpha * soft + (1 - self.alpha) * nll, m, batch)


class HardSoftenedToo(SoftAndHard):
    def hard(self, logits):
        return logits / self.temperature


class Mixed(LossFunction):
    """Generalised Jensen-Shannon divergence."""

    def __init__(self, config=None):
        super().__init__(config)
        self.beta = self.config.get("beta", 0.5)

    def mixture(self, s, t):
        return torch.logaddexp(t + math.log(self.beta), s + math.log1p(-self.beta))

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        s = kept(model_outputs["logits"][:, :-1], m).log_softmax(-1).clamp(min=-1e30)
        t = kept(batch["teacher_logits"][:, :-1].detach(), m).log_softmax(-1).clamp(min=-1e30)
        mixture = self.mixture(s, t)
        of_teacher, of_student = ((p.exp() * (p - mixture)).sum(-1) for p in (t, s))
        return token_mean(self.beta * of_teacher + (1 - self.beta) * of_student, m, batch)


class MixedTheOtherWay(Mixed):
    def mixture(self, s, t):
        return super().mixture(t, s)


class ScaledBothWays(nn.Module):
    """Images find captions and captions images, at a temperature that is learned."""

    def __init__(self):
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def back(self, similarity, logits):
        return logits.T

    def forward(self, image_features, text_features):
        similarity = F.normalize(image_features, dim=-1) @ F.normalize(text_features, dim=-1).T
        logits = self.logit_scale.clamp(max=math.log(100.0)).exp().to(similarity) * similarity
        own = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, own) + F.cross_entropy(self.back(similarity, logits), own)) / 2


class ScaledOneWay(ScaledBothWays):
    def back(self, similarity, logits):
        return similarity.T


EMBEDDINGS = Field("embeddings", "B D", trainable=True)


FAULTS = (
    Fault(
        "X459",
        "the learned temperature is forgotten on the way back",
        "",
        ScaledOneWay,
        ScaledBothWays,
        ("gradient_flow",),
        Contract(
            family="contrastive",
            coupled=True,
            lower_bound=0.0,
            fields={"image_features": EMBEDDINGS, "text_features": EMBEDDINGS},
        ),
        bare=ADVICE,
        advice=True,
    ),
    Fault(
        "X458",
        "teacher and student change places in the mixture",
        "huggingface/trl#3043",
        MixedTheOtherWay,
        Mixed,
        ("positivity", "options"),
        Contract(
            family="distillation",
            level="token",
            normalizer="global",
            lower_bound=0.0,
            upper_bound=math.log(2),
            options={"beta": Option(values=(0.1, 0.5, 0.9))},
        ),
    ),
    Fault(
        "X444",
        "the uniform part is not weighted with the smoothing",
        "TimDettmers/ConvE#55",
        UniformUnweighted,
        Smoothed,
        ("options",),
        Contract(family="supervised", level="token", normalizer="global", lower_bound=0.0),
        bare=ADVICE,
    ),
    Fault(
        "X445",
        "the centring term squares the difference of the rewards",
        "huggingface/trl#1932",
        centred_difference,
        centred_sum,
        ("options",),
        Contract(family="reward", level="pair", fields=REWARDS),
        bare=ADVICE,
    ),
    Fault(
        "X446",
        "the temperature divides the logits of the hard cross-entropy as well",
        "",
        HardSoftenedToo,
        SoftAndHard,
        ("options",),
        Contract(
            family="composite",
            level="token",
            normalizer="global",
            lower_bound=0.0,
            options={"alpha": Option(values=(0.0, 0.5)), "temperature": Option(values=(1.0, 2.0))},
        ),
        bare=ADVICE,
        advice=True,
    ),
)
