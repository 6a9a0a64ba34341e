"""Precision, training, and equality with a baseline."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from loss_reference import Contract, LossFunction
from tests.faults.fault import ADVICE, FAILED, UNSEEN, Fault
from tests.faults.masking import Nll
from tests.faults.parts import (
    constant,
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


class HalfInside(LossFunction):
    """Log-probabilities computed in bfloat16."""

    def narrow(self, z):
        return z.to(torch.bfloat16)

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        z = kept(model_outputs["logits"][:, :-1], m)
        lp = self.narrow(z).log_softmax(-1).to(z.dtype)
        lp = lp.gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1)
        return token_mean(-lp, m, batch)


class WholeInside(HalfInside):
    def narrow(self, z):
        return z


class UnderAutocast(LossFunction):
    """Similarities computed under autocast."""

    def similarities(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return x @ x.T

    def compute_loss(self, batch, model_outputs):
        x = model_outputs["embeddings"]
        x = x / (x.square().sum(1, keepdim=True) + 1e-6).sqrt()
        i, j = batch["positive_pairs"].T
        return F.cross_entropy(self.similarities(x).to(x.dtype)[i] / 0.1, j)


class InFullPrecision(UnderAutocast):
    def similarities(self, x):
        return x @ x.T


class SmallestFloat(LossFunction):
    """log of a probability clamped at the smallest number of the dtype."""

    def log(self, p, z):
        return p.clamp(min=torch.finfo(p.dtype).tiny).log()

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        z = kept(model_outputs["logits"][:, :-1], m)
        lp = self.log(z.softmax(-1), z).gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1)
        return token_mean(-lp, m, batch)


class LogSoftmax(SmallestFloat):
    def log(self, p, z):
        return z.log_softmax(-1)


class Growing(LossFunction):
    """A weight that grows with every call."""

    def __init__(self, config=None):
        super().__init__(config)
        self.weight = 1.0

    def grow(self):
        self.weight *= 1.05

    def compute_loss(self, batch, model_outputs):
        self.grow()
        m = token_weights(batch)
        return token_mean(-self.weight * policy(model_outputs, m), m, batch)


class Constant(Growing):
    def grow(self):
        pass


class ReferenceLeftOut(LossFunction):
    """DPO on averaged log-probabilities without the reference."""

    def scores(self, batch, model_outputs):
        m = token_weights(batch)
        lp = policy(model_outputs, m)
        return lp.sum(1) / m.sum(1).clamp(min=1)

    def compute_loss(self, batch, model_outputs):
        x = self.scores(batch, model_outputs)
        chosen, rejected = pairs(x)
        return pair_mean(F.softplus(-0.1 * (chosen - rejected)), pair_weights(batch, x), batch)


class WithReference(ReferenceLeftOut):
    def scores(self, batch, model_outputs):
        return sequence_ratio(batch, model_outputs)


class TwiceTheGradient(Nll):
    """l + l - sg(l): the value of l, twice its gradient."""

    def compute_loss(self, batch, model_outputs):
        loss = super().compute_loss(batch, model_outputs)
        return loss + loss - loss.detach()


class LengthAgain(LossFunction):
    """A mean over tokens divided by the length once more."""

    def lengths(self, n):
        return n * n

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        terms = -policy(model_outputs, m).sum(1) / self.lengths((m != 0).sum(1).clamp(min=1).to(m))
        return row_mean(terms, row_weights(batch, terms), batch)


class LengthOnce(LengthAgain):
    def lengths(self, n):
        return n


class PerToken(LossFunction):
    """GSPO whose sequence terms are averaged over tokens: long sequences weigh more."""

    def reduce(self, terms, m, batch):
        return token_mean(terms[:, None].expand_as(m), m, batch)

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        d = policy(model_outputs, m) - constant(batch, "prev_logprobs", m)
        n = (m != 0).sum(1).clamp(min=1).to(m)
        s = (d.sum(1) / n).clamp(max=20).exp()
        a = constant(batch, "advantages", m).sum(1) / n
        return self.reduce(torch.maximum(-a * s, -a * s.clamp(0.8, 1.2)), m, batch)


class PerSequence(PerToken):
    def reduce(self, terms, m, batch):
        return row_mean(terms, row_weights(batch, terms), batch)


FAULTS = (
    Fault(
        "B106",
        "log-probabilities in half precision",
        "linkedin/Liger-Kernel@ac2e8f45",
        HalfInside,
        WholeInside,
        ("stability",),
        SFT,
        bare=ADVICE,
    ),
    Fault(
        "B107",
        "similarities in the autocast dtype",
        "huggingface/sentence-transformers@c81d3e5a",
        UnderAutocast,
        InFullPrecision,
        ("stability",),
        Contract(family="contrastive"),
    ),
    Fault(
        "B199",
        "divided by the length again",
        "hiyouga/LLaMA-Factory@a8fae3869",
        LengthAgain,
        LengthOnce,
        ("reduction",),
        Contract(level="sequence", normalizer="global", length_normalized=True),
        bare=UNSEEN,
    ),
    Fault(
        "B201",
        "sequence terms averaged over tokens",
        "OpenRLHF/OpenRLHF@1b23ecf0",
        PerToken,
        PerSequence,
        ("reduction",),
        Contract(family="policy_gradient", level="sequence", normalizer="global"),
        bare=UNSEEN,
    ),
    Fault(
        "B203",
        "DPO on averages without the reference",
        "linkedin/Liger-Kernel@2de93647",
        ReferenceLeftOut,
        WithReference,
        ("baseline",),
        Contract(family="preference", level="pair", baseline="dpo"),
        bare=UNSEEN,
    ),
    Fault(
        "X80",
        "clamped at the smallest float of the dtype",
        "",
        SmallestFloat,
        LogSoftmax,
        ("stability", "finite"),
        SFT,
        bare=FAILED,
    ),
    Fault("X81", "a weight that grows with every call", "", Growing, Constant, ("stability", "interface"), SFT),
    Fault(
        "X83",
        "twice the gradient of the value",
        "",
        TwiceTheGradient,
        Nll,
        ("baseline", "gradient_flow"),
        Contract(family="supervised", baseline="nll"),
    ),
)
