"""Values a loss cannot have, and divergences that are something else."""

from __future__ import annotations

import math

import torch

from loss_reference import Contract, LossFunction
from tests.faults.fault import ADVICE, UNSEEN, Fault
from tests.faults.masked_terms import JsdLogs
from tests.faults.parts import (
    gathered,
    kept,
    policy,
    token_mean,
    token_weights,
)

SFT = Contract(family="supervised", level="token", normalizer="global", lower_bound=0.0)
KD = Contract(family="distillation", level="token", normalizer="global", lower_bound=0.0)
LOG2 = math.log(2)


class JsdInLogSpace(JsdLogs):
    """The mixture is interpolated between log-probabilities."""

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        s = kept(model_outputs["logits"][:, :-1], m).log_softmax(-1).clamp(min=-1e4)
        t = kept(batch["teacher_logits"][:, :-1].detach(), m).log_softmax(-1).clamp(min=-1e4)
        mixture = (s + t) / 2
        return token_mean((s.exp() * (s - mixture) + t.exp() * (t - mixture)).sum(-1) / 2, m, batch)


class KlOverClasses(LossFunction):
    """Forward KL averaged over the vocabulary as well."""

    def reduce(self, terms):
        return terms.mean(-1)

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        s = kept(model_outputs["logits"][:, :-1], m).log_softmax(-1)
        t = kept(batch["teacher_logits"][:, :-1].detach(), m).log_softmax(-1)
        difference = torch.where(torch.isinf(t), 0.0, t - s)
        return token_mean(self.reduce(t.exp() * difference), m, batch)


class KlOfTokens(KlOverClasses):
    def reduce(self, terms):
        return terms.sum(-1)


class KlRolesExchanged(KlOverClasses):
    """t (s - t): the negative of the divergence."""

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        s = kept(model_outputs["logits"][:, :-1], m).log_softmax(-1)
        t = kept(batch["teacher_logits"][:, :-1].detach(), m).log_softmax(-1)
        return token_mean((t.exp() * torch.where(torch.isinf(t), 0.0, s - t)).sum(-1), m, batch)


class WithHalfTheCe(KlOfTokens):
    """Half a cross-entropy is left in: not 0 for equal student and teacher."""

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        return super().compute_loss(batch, model_outputs) + 0.5 * token_mean(
            -gathered(batch, model_outputs, m), m, batch
        )


class SoftmaxTwice(LossFunction):
    """CE(softmax(z))."""

    def scores(self, z):
        return z.softmax(-1)

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        z = self.scores(kept(model_outputs["logits"][:, :-1], m))
        lp = z.log_softmax(-1).gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1)
        return token_mean(-lp, m, batch)


class SoftmaxOnce(SoftmaxTwice):
    def scores(self, z):
        return z


class LogWithEpsilon(LossFunction):
    """log(p + eps): below 0 at p = 1."""

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        p = kept(model_outputs["logits"][:, :-1], m).softmax(-1)
        p = p.gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1)
        return token_mean(-torch.log(p + 1e-3), m, batch)


class MissingProbability(LossFunction):
    """mean of 1 - p, between 0 and 1."""

    def reduce(self, terms, m):
        return (terms * m).sum() / m.sum().clamp(min=1)

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        return self.reduce(-torch.expm1(policy(model_outputs, m)), m)


class SummedOverTokens(MissingProbability):
    def reduce(self, terms, m):
        return (terms * m).sum(1).mean()


FAULTS = (
    Fault(
        "B139",
        "JSD mixture in log space",
        "huggingface/trl@7e5924d17",
        JsdInLogSpace,
        JsdLogs,
        ("positivity",),
        Contract(family="distillation", level="token", normalizer="global", lower_bound=0.0, upper_bound=LOG2),
        bare=UNSEEN,
    ),
    Fault(
        "B141",
        "half a cross-entropy left in the divergence",
        "huggingface/trl@63a78d9e5",
        WithHalfTheCe,
        KlOfTokens,
        ("positivity",),
        KD,
        bare=ADVICE,
        advice=True,
    ),
    Fault(
        "B142",
        "softmax before cross-entropy",
        "OpenRLHF/OpenRLHF@83371f29",
        SoftmaxTwice,
        SoftmaxOnce,
        ("positivity", "baseline"),
        Contract(family="supervised", baseline="nll"),
        bare=ADVICE,
    ),
    Fault(
        "B143",
        "KL averaged over classes",
        "haitongli/knowledge-distillation-pytorch#2",
        KlOverClasses,
        KlOfTokens,
        ("baseline", "reduction"),
        Contract(family="distillation", baseline="forward_kl"),
        bare=ADVICE,
    ),
    Fault("X67", "the negative of the divergence", "", KlRolesExchanged, KlOfTokens, ("positivity",), KD),
    Fault(
        "B093",
        "log(p + eps)",
        "kornia/kornia@fdb5d39bf",
        LogWithEpsilon,
        SoftmaxOnce,
        ("positivity",),
        SFT,
        bare="advice",
    ),
    Fault(
        "X86",
        "a sum over tokens of what is bounded by 1",
        "",
        SummedOverTokens,
        MissingProbability,
        ("positivity",),
        Contract(family="supervised", lower_bound=0.0, upper_bound=1.0),
    ),
)
