"""Numerics: what overflows, underflows, divides by nothing, or has an infinite slope."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from loss_reference import Contract, LossFunction
from tests.faults.fault import ADVICE, Fault
from tests.faults.masking import JsdLogs, LocalNll
from tests.faults.parts import (
    constant,
    gathered,
    kept,
    pair_mean,
    pair_weights,
    pairs,
    policy,
    row_mean,
    row_weights,
    sequence_ratio,
    token_mean,
    token_weights,
)
from tests.faults.reduction import DividedOnce

DPO = Contract(family="preference", level="pair", lower_bound=0.0)
PG = Contract(family="policy_gradient", normalizer="global")
KD = Contract(family="distillation", level="token", lower_bound=0.0)


class MeanOfSelection(LossFunction):
    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        n = (m[m != 0]).sum()
        terms = -model_outputs["next_token_logprobs"][m != 0] * m[m != 0]
        return terms.sum() / n


class GraphlessZero(LossFunction):
    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        if not bool((m != 0).any()):
            return torch.tensor(0.0)
        return (-policy(model_outputs, m) * m).sum() / m.sum().clamp(min=1)


class ChunkedKl(LossFunction):
    """Forward KL summed in chunks of two tokens."""

    def divide(self, total, count):
        return total / count.clamp(min=1)

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        s = kept(model_outputs["logits"][:, :-1], m).log_softmax(-1)
        t = kept(batch["teacher_logits"][:, :-1].detach(), m).log_softmax(-1)
        total = s.new_zeros(())
        for a, b, w in zip(s.split(2, 1), t.split(2, 1), m.split(2, 1), strict=True):
            difference = torch.where(torch.isinf(b), 0.0, b - a)
            total = total + ((b.exp() * difference).sum(-1) * w).sum()
        return self.divide(total, m.sum())


class ChunkedKlUnguarded(ChunkedKl):
    def divide(self, total, count):
        return total / count


class Kto(LossFunction):
    """sigma of how far a row lies from the mean log-ratio of the undesirable ones."""

    def baseline(self, h, undesirable):
        return (h * undesirable).sum() / undesirable.sum().clamp(min=1)

    def compute_loss(self, batch, model_outputs):
        h = sequence_ratio(batch, model_outputs)
        w = row_weights(batch, h)
        sign = batch["labels"].to(h) * 2 - 1
        z = self.baseline(h.detach(), (batch["labels"] == 0).to(h) * (w != 0)).clamp(min=0)
        return row_mean(1 - torch.sigmoid(sign * (h - z)), w, batch)


class KtoMeanOfNothing(Kto):
    def baseline(self, h, undesirable):
        return h[undesirable != 0].mean()


class RowNormalised(LossFunction):
    """Sequence policy gradient on rewards normalised over the batch."""

    def scale(self, r):
        return r.std(unbiased=False) + 1e-6

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        r, present = batch["rewards"].detach(), row_weights(batch, m) != 0
        if not bool(present.any()):
            return (policy(model_outputs, m) * m).sum()
        a = (r - r[present].mean()) / self.scale(r[present])
        return token_mean(-policy(model_outputs, m) * torch.where(present, a, 0.0)[:, None], m, {})


class StdOfOne(RowNormalised):
    def scale(self, r):
        return r.std() + 1e-6


class StdOfNothing(RowNormalised):
    def scale(self, r):
        return r.std(unbiased=False)


class ClassBalanced(torch.nn.Module):
    """Cross-entropy with weights 1 / (number of this class in the batch)."""

    def weights(self, counts):
        return 1 / counts.clamp(min=1)

    def forward(self, logits, labels):
        one_hot = F.one_hot(labels, logits.shape[1]).to(logits)
        w = self.weights(one_hot.sum(0))
        return -(one_hot * w * logits.log_softmax(1)).sum() / (one_hot * w).sum()


class AbsentClassInfinite(ClassBalanced):
    def weights(self, counts):
        return 1 / counts


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
        return pair_mean(self.term(chosen - rejected), pair_weights(batch, model_outputs["rewards"]), batch)


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
        x = F.normalize(model_outputs["embeddings"], dim=1)
        i, j = batch["positive_pairs"].T
        cos = (x[i] * x[j]).sum(1)
        return self.sine(1 - cos.square()).mean()

    def sine(self, s2):
        return s2.clamp(min=1e-6).sqrt()


class SineAtOne(Angle):
    def sine(self, s2):
        return s2.clamp(min=0).sqrt()


FAULTS = (
    Fault(
        "B068",
        "no guard for zero tokens in the chunked KL",
        "pytorch/torchtune@97e857f9f",
        ChunkedKlUnguarded,
        ChunkedKl,
        ("finite",),
        KD,
    ),
    Fault(
        "B071",
        "mean of an empty selection",
        "NVIDIA-NeMo/RL@5ff10f613",
        MeanOfSelection,
        LocalNll,
        ("finite",),
        Contract(family="supervised"),
    ),
    Fault(
        "B073",
        "a fresh zero for a batch of padding",
        "PrimeIntellect-ai/prime-rl@e2e6f9ab1",
        GraphlessZero,
        LocalNll,
        ("finite",),
        Contract(family="supervised"),
    ),
    Fault(
        "B081",
        "KL baseline is the mean of no rows",
        "huggingface/trl@14e0d7880",
        KtoMeanOfNothing,
        Kto,
        ("finite",),
        Contract(family="preference", level="sequence", coupled=True, surrogate_gradient=True),
    ),
    Fault(
        "B083",
        "standard deviation of one row",
        "DLR-RM/stable-baselines3@2cc1477f",
        StdOfOne,
        RowNormalised,
        ("finite",),
        Contract(family="policy_gradient", normalizer="local", coupled=True),
    ),
    Fault(
        "B085",
        "division by a standard deviation of 0",
        "huggingface/trl@decc832d3",
        StdOfNothing,
        RowNormalised,
        ("finite",),
        Contract(family="policy_gradient", normalizer="local", coupled=True),
    ),
    Fault(
        "B086",
        "class absent from the batch weighs 1/0",
        "Project-MONAI/MONAI@8d7944ffb",
        AbsentClassInfinite,
        ClassBalanced,
        ("finite",),
        Contract(family="supervised", coupled=True),
    ),
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
