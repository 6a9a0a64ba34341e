"""Numerics: what overflows, underflows, divides by nothing, or has an infinite slope."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from loss_reference import Contract, LossFunction
from tests.faults.fault import ADVICE, Fault
from tests.faults.masked_terms import JsdLogs
from tests.faults.parts import (
    constant,
    gathered,
    kept,
    pair_mean,
    pair_weights,
    pairs,
    policy,
    sequence_ratio,
    token_mean,
    token_weights,
)
from tests.faults.reduction import DividedOnce

DPO = Contract(family="preference", level="pair", lower_bound=0.0)
PG = Contract(family="policy_gradient", normalizer="global")
KD = Contract(family="distillation", level="token", lower_bound=0.0)


class LogOfSigmoid(LossFunction):
    def compute_loss(self, batch, model_outputs):
        chosen, rejected = pairs(sequence_ratio(batch, model_outputs))
        w = pair_weights(batch, model_outputs["next_token_logprobs"])
        return pair_mean(-torch.log(torch.sigmoid(chosen - rejected)), w, batch)


class RewardLogOfSigmoid(LossFunction):
    def term(self, difference):
        return -torch.log(torch.sigmoid(difference))

    def compute_loss(self, batch, model_outputs):
        chosen, rejected = pairs(model_outputs["rewards"])
        w = pair_weights(batch, model_outputs["rewards"])
        return pair_mean(self.term(kept(chosen - rejected, w)), w, batch)


class RewardSoftplus(RewardLogOfSigmoid):
    def term(self, difference):
        return F.softplus(-difference)


class UnclampedRatio(LossFunction):
    def ratio(self, d):
        return d.exp()

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        d = policy(model_outputs, m) - constant(batch, "prev_logprobs", m)
        rho, a = self.ratio(d), constant(batch, "advantages", m)
        return token_mean(torch.maximum(-a * rho, -a * rho.clamp(0.8, 1.2)), m, batch)


class ClampedRatio(UnclampedRatio):
    def ratio(self, d):
        return d.clamp(-20, 20).exp()


class JsdInProbabilities(LossFunction):
    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        s = kept(model_outputs["logits"][:, :-1], m).log_softmax(-1)
        t = kept(batch["teacher_logits"][:, :-1].detach(), m).log_softmax(-1)
        mixture = torch.log((s.exp() + t.exp()) / 2)
        terms = (s.exp() * (s - mixture) + t.exp() * (t - mixture)).sum(-1) / 2
        return token_mean(terms, m, batch)


class Focal(LossFunction):
    """-(1 - p)^gamma log p."""

    def weight(self, lp):
        return torch.exp(0.5 * torch.log(-torch.expm1(lp.clamp(max=-1e-6))))

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        lp = gathered(batch, model_outputs, m)
        return token_mean(-self.weight(lp) * lp, m, batch)


class FocalRoot(Focal):
    def weight(self, lp):
        return (1 - lp.exp()) ** 0.5


class NaiveLogSumExp(LossFunction):
    def log_sum(self, z):
        return z.exp().sum(-1).log()

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        z = kept(model_outputs["logits"][:, :-1], m)
        chosen = z.gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1)
        return token_mean(self.log_sum(z) - chosen, m, batch)


class StableLogSumExp(NaiveLogSumExp):
    def log_sum(self, z):
        return z.logsumexp(-1)


class Triplet(torch.nn.Module):
    """Hinge on the difference of Euclidean distances."""

    def distance(self, x, y):
        d2 = (x - y).square().sum(1)
        far = d2 > 0
        return torch.where(far, torch.where(far, d2, 1.0).sqrt(), 0.0)

    def forward(self, anchor, positive, negative):
        d = self.distance(anchor, positive) - self.distance(anchor, negative)
        return F.relu(d + 1.0).mean()


class PairDistance(LossFunction):
    """Mean distance of positive pairs."""

    def distance(self, d2):
        far = d2 > 0
        return torch.where(far, torch.where(far, d2, 1.0).sqrt(), 0.0)

    def compute_loss(self, batch, model_outputs):
        x = model_outputs["embeddings"]
        i, j = batch["positive_pairs"].T
        return self.distance((x[i] - x[j]).square().sum(1)).mean()


class DistanceOfEqual(PairDistance):
    def distance(self, d2):
        return d2.sqrt()


class Angle(PairDistance):
    def compute_loss(self, batch, model_outputs):
        x = model_outputs["embeddings"]
        x = F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=1)
        i, j = batch["positive_pairs"].T
        # sin^2 = |x - y|^2 |x + y|^2 / 4: the digits of 1 - cos^2 cancel near cos = 1, and near -1.
        return self.sine((x[i] - x[j]).square().sum(1) * (x[i] + x[j]).square().sum(1) / 4).mean()

    def sine(self, s2):
        return s2.clamp(min=1e-6).sqrt()


class SineAtOne(Angle):
    def sine(self, s2):
        return s2.clamp(min=0).sqrt()


FAULTS = (
    Fault("B089", "log(sigmoid(x))", "huggingface/trl@57ba9b93a", LogOfSigmoid, DividedOnce, ("finite",), DPO),
    Fault(
        "B090",
        "-log(sigmoid(x)) on rewards",
        "deepspeedai/DeepSpeedExamples#423",
        RewardLogOfSigmoid,
        RewardSoftplus,
        ("finite",),
        Contract(family="reward", level="pair"),
    ),
    Fault(
        "B091",
        "exp of an unclamped log-ratio",
        "volcengine/verl@2c85b4329",
        UnclampedRatio,
        ClampedRatio,
        ("finite",),
        PG,
        bare=ADVICE,
        advice=True,
    ),
    Fault(
        "B092",
        "log of a mixture of probabilities",
        "linkedin/Liger-Kernel@a089cd59",
        JsdInProbabilities,
        JsdLogs,
        ("finite",),
        KD,
    ),
    Fault(
        "B095",
        "slope of (1 - p)^gamma at p = 1",
        "google-deepmind/optax@1e5d3e02",
        FocalRoot,
        Focal,
        ("finite",),
        Contract(family="supervised"),
    ),
    Fault(
        "B099",
        "sin from sqrt(1 - cos^2) at cos = 1",
        "ronghuaiyang/arcface-pytorch#91",
        SineAtOne,
        Angle,
        ("finite",),
        Contract(family="contrastive"),
    ),
    Fault(
        "B100",
        "distance of identical embeddings",
        "huggingface/sentence-transformers#4033",
        DistanceOfEqual,
        PairDistance,
        ("finite",),
        Contract(family="contrastive"),
    ),
    Fault("X20", "log(sum(exp))", "", NaiveLogSumExp, StableLogSumExp, ("finite",), Contract(family="supervised")),
)
