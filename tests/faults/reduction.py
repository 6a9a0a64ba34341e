"""Normalisers: who divides by what."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from loss_reference import Contract, LossFunction
from tests.faults.fault import ADVICE, FAILED, UNSEEN, Fault
from tests.faults.masking import LocalNll, Nll
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

SFT = Contract(family="supervised", level="token", normalizer="global", lower_bound=0.0)
PG = Contract(family="policy_gradient", level="token", normalizer="global")


class Smoothed(LossFunction):
    """(1 - e) NLL + e * mean over the vocabulary of -log p."""

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        lp = kept(model_outputs["logits"][:, :-1], m).log_softmax(-1)
        target = gathered(batch, model_outputs, m)
        uniform = torch.where(torch.isinf(lp), 0.0, lp).mean(-1)
        return 0.9 * token_mean(-target, m, batch) + 0.1 * self.smooth(-uniform, m, batch)

    def smooth(self, terms, m, batch):
        return token_mean(terms, m, batch)


class SmoothedLocally(Smoothed):
    def smooth(self, terms, m, batch):
        return token_mean(terms, m, {})


class ShareOfRows(LossFunction):
    """The token mean of this microbatch, weighted by its share of the rows."""

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        w = row_weights(batch, m)
        local = (-policy(model_outputs, m) * m).sum() / m.sum().clamp(min=1)
        return local * w.sum() / batch.get("global_valid_seqs", w.sum()).clamp(min=1)


class SequenceMean(LossFunction):
    """Mean over sequences of the mean over tokens."""

    def terms(self, batch, model_outputs, m):
        return -policy(model_outputs, m)

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        terms = (self.terms(batch, model_outputs, m) * m).sum(1) / m.sum(1).clamp(min=1)
        return row_mean(terms, row_weights(batch, terms), batch)


class MicrobatchMask(LossFunction):
    """DAPO divisor taken from this microbatch although the global one is given."""

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        ratio = (policy(model_outputs, m) - constant(batch, "prev_logprobs", m)).clamp(max=20).exp()
        terms = -constant(batch, "advantages", m) * ratio
        n = batch.get("global_valid_toks", m.sum())
        return (terms * m).sum() / torch.minimum(n, m.sum()).clamp(min=1)


class GlobalMask(LossFunction):
    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        ratio = (policy(model_outputs, m) - constant(batch, "prev_logprobs", m)).clamp(max=20).exp()
        return token_mean(-constant(batch, "advantages", m) * ratio, m, batch)


class DividedTwice(LossFunction):
    """The mean over rows of terms that were already divided by the number of rows."""

    def compute_loss(self, batch, model_outputs):
        x = sequence_ratio(batch, model_outputs)
        chosen, rejected = pairs(x)
        terms = F.softplus(rejected - chosen)
        return (terms / len(x)).mean()


class DividedOnce(LossFunction):
    def compute_loss(self, batch, model_outputs):
        chosen, rejected = pairs(sequence_ratio(batch, model_outputs))
        w = pair_weights(batch, model_outputs["next_token_logprobs"])
        return pair_mean(F.softplus(rejected - chosen), w, batch)


class SumCalledMean(LossFunction):
    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        return -(policy(model_outputs, m) * m).sum()


class AdvantagesAsMask(LossFunction):
    """sum(l A) / sum(A)."""

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        a = constant(batch, "advantages", m)
        return -(policy(model_outputs, m) * a).sum() / a.sum()


class ReinforceMean(LossFunction):
    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        a = constant(batch, "advantages", m)
        return -(policy(model_outputs, m) * a * m).sum() / m.sum().clamp(min=1)


class LastTokenCounted(LossFunction):
    """SimPO length average whose sum leaves out the last token, while the length counts it."""

    def scores(self, lp, m):
        last = torch.cat((m[:, 1:], torch.zeros_like(m[:, :1])), 1)
        return (lp * (last != 0)).sum(1) / m.sum(1).clamp(min=1)

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        chosen, rejected = pairs(self.scores(policy(model_outputs, m), (m != 0).to(m)))
        return pair_mean(F.softplus(0.5 - 2 * (chosen - rejected)), pair_weights(batch, m), batch)


class WholeAverage(LastTokenCounted):
    def scores(self, lp, m):
        return lp.sum(1) / m.sum(1).clamp(min=1)


FAULTS = (
    Fault(
        "B032",
        "each microbatch divides by its own tokens",
        "huggingface/transformers#34191",
        LocalNll,
        Nll,
        ("reduction",),
        SFT,
        bare=UNSEEN,
    ),
    Fault(
        "B033",
        "the label smoother ignores the global count",
        "huggingface/transformers#46731",
        SmoothedLocally,
        Smoothed,
        ("reduction",),
        SFT,
    ),
    Fault(
        "B040",
        "token mean scaled by its share of rows",
        "volcengine/verl@b49178f0f",
        ShareOfRows,
        SequenceMean,
        ("reduction",),
        Contract(family="supervised", normalizer="global"),
    ),
    Fault(
        "B043",
        "DAPO divisor from the current microbatch",
        "linkedin/Liger-Kernel@e07abecd",
        MicrobatchMask,
        GlobalMask,
        ("reduction",),
        PG,
    ),
    Fault(
        "B087",
        "sum(l A) / sum(A)",
        "volcengine/verl@fbec86d7f",
        AdvantagesAsMask,
        ReinforceMean,
        ("reduction", "direction", "finite"),
        Contract(family="policy_gradient", normalizer="local"),
    ),
    Fault(
        "B200",
        "EOS counted in the length and not in the sum",
        "PaddlePaddle/PaddleFormers#4909",
        LastTokenCounted,
        WholeAverage,
        ("masking",),
        Contract(family="preference", level="pair", normalizer="global"),
    ),
    Fault(
        "X10",
        "divided by the number of rows twice",
        "",
        DividedTwice,
        DividedOnce,
        ("reduction",),
        Contract(family="preference", level="pair"),
        bare=FAILED,
    ),
    Fault(
        "X11",
        "a sum where a mean is promised",
        "",
        SumCalledMean,
        LocalNll,
        ("reduction",),
        Contract(family="supervised", level="token", normalizer="local"),
        bare=ADVICE,
    ),
)
