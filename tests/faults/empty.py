"""Nothing left: no token, no row of a kind, no spread, no example of a class."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from loss_reference import Contract, LossFunction
from tests.faults.fault import Fault
from tests.faults.masking import LocalNll
from tests.faults.parts import (
    kept,
    policy,
    row_mean,
    row_weights,
    sequence_ratio,
    token_mean,
    token_weights,
)

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
)
