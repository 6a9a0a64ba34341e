"""Masks inside a term: one operand, one table, or one statistic is left unmasked."""

from __future__ import annotations

import torch

from loss_reference import Contract, LossFunction
from tests.faults.fault import Fault
from tests.faults.parts import (
    constant,
    gathered,
    kept,
    policy,
    token_mean,
    token_weights,
)

SFT = Contract(family="supervised", level="token", normalizer="global", lower_bound=0.0)
PG = Contract(family="policy_gradient", level="token", normalizer="global")
DPO = Contract(family="preference", level="pair", normalizer="global", lower_bound=0.0)
KD = Contract(family="distillation", level="token", normalizer="global", lower_bound=0.0)


class RatioMaskedAfterExp(LossFunction):
    """Reinforce with a ratio; the mask comes after the exponential."""

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        ratio = (model_outputs["next_token_logprobs"] - batch["prev_logprobs"][:, 1:].detach()).exp()
        terms = torch.where(m != 0, -ratio * constant(batch, "advantages", m), 0.0)
        return token_mean(terms, m, batch)


class RatioOfMasked(LossFunction):
    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        ratio = (policy(model_outputs, m) - constant(batch, "prev_logprobs", m)).exp()
        return token_mean(-ratio * constant(batch, "advantages", m), m, batch)


class SequenceImportance(LossFunction):
    """-A lp times the truncated sequence weight min(2, exp sum (old - gen))."""

    def log_weight(self, batch, m):
        return (batch["prev_logprobs"][:, 1:] - batch["generation_logprobs"][:, 1:]).where(m != 0, 0.0).sum(1)

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        w = self.log_weight(batch, m).exp().clamp(max=2.0).detach()
        lp, a = policy(model_outputs, m), constant(batch, "advantages", m)
        return token_mean(-w[:, None] * a * lp, m, batch)


class OneOperandMasked(SequenceImportance):
    def log_weight(self, batch, m):
        old, gen = batch["prev_logprobs"][:, 1:], batch["generation_logprobs"][:, 1:]
        return (torch.where(m != 0, old, 0.0) - gen).sum(1)


class ReturnWithKl(LossFunction):
    """-lp_t G_t with G_t = A_t - k sum_{s >= t} kl_s."""

    def kl(self, lp, batch, m):
        return kept(lp - batch["reference_policy_logprobs"][:, 1:], m)

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        lp = model_outputs["next_token_logprobs"]
        k = self.kl(lp.detach(), batch, m)
        to_go = k.flip(1).cumsum(1).flip(1)
        gain = constant(batch, "advantages", m) - 0.1 * to_go
        return token_mean(-kept(lp, m) * gain.detach(), m, batch)


class KlOfMaskedTokens(ReturnWithKl):
    def kl(self, lp, batch, m):
        return lp - batch["reference_policy_logprobs"][:, 1:]


class EntropyThreshold(LossFunction):
    """Policy gradient on the half of the tokens with the highest entropy."""

    def threshold(self, entropy, m):
        chosen = entropy[m != 0]
        return chosen.median() if chosen.numel() else entropy.new_zeros(())

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        logits = model_outputs["logits"][:, :-1].detach()
        logits = logits if type(self) is QuantileOverPadding else kept(logits, m)
        p = logits.softmax(-1)
        entropy = torch.special.entr(p).sum(-1)
        chosen = (entropy >= self.threshold(entropy, m)).to(m)
        lp = gathered(batch, model_outputs, m)
        return token_mean(-lp * constant(batch, "advantages", m) * chosen, m, batch)


class QuantileOverPadding(EntropyThreshold):
    def threshold(self, entropy, m):
        return entropy.median()


class Whitened(LossFunction):
    """Advantages whitened over the trained tokens."""

    def advantages(self, batch, m):
        a = constant(batch, "advantages", m)
        a = a.float() if a.dtype is torch.float16 else a  # which has no 1e-8
        n = m.sum().clamp(min=1)
        mean = (a * m).sum() / n
        std = ((kept(a - mean, m).square() * m).sum() / n + 1e-8).sqrt()
        return kept((a - mean) / std, m)

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        lp = model_outputs["next_token_logprobs"]
        a = self.advantages(batch, m)
        lp = torch.where(a != 0, lp, 0.0)
        return -(lp * a).sum() / m.sum().clamp(min=1)


class WhitenedAfterMasking(Whitened):
    def advantages(self, batch, m):
        a = constant(batch, "advantages", m)
        return (a - a.mean()) / (a.std(unbiased=False) + 1e-4)


class JsdLogs(LossFunction):
    """mean over tokens of JSD(teacher, student)."""

    def masked(self, x, m):
        return kept(x, m)

    def reduce(self, terms, m, batch):
        return token_mean(terms, m, batch)

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        s = self.masked(model_outputs["logits"][:, :-1], m).log_softmax(-1)
        t = self.masked(batch["teacher_logits"][:, :-1].detach(), m).log_softmax(-1)
        s, t = s.clamp(min=-1e4), t.clamp(min=-1e4)
        mixture = torch.logaddexp(s, t) - 0.6931471805599453
        terms = (s.exp() * (s - mixture) + t.exp() * (t - mixture)).sum(-1) / 2
        return self.reduce(terms, m, batch)


class JsdOverEverything(JsdLogs):
    def masked(self, x, m):
        return x

    def reduce(self, terms, m, batch):
        return terms.mean()


class ReverseKlMaskedLate(JsdLogs):
    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        s = self.masked(model_outputs["logits"][:, :-1], m).log_softmax(-1).clamp(min=-1e4)
        t = self.masked(batch["teacher_logits"][:, :-1].detach(), m).log_softmax(-1).clamp(min=-1e4)
        return self.reduce((s.exp() * (s - t)).sum(-1), m, batch)


class ReverseKlUnmaskedTeacher(ReverseKlMaskedLate):
    def masked(self, x, m):
        return x


FAULTS = (
    Fault(
        "B003",
        "reverse KL reads the teacher at masked positions",
        "huggingface/trl@43e09b8fb",
        ReverseKlUnmaskedTeacher,
        ReverseKlMaskedLate,
        ("masking",),
        KD,
    ),
    Fault(
        "B004",
        "JSD summed and divided over all tokens",
        "linkedin/Liger-Kernel@33f7f487",
        JsdOverEverything,
        JsdLogs,
        ("masking",),
        KD,
    ),
    Fault(
        "B007",
        "exp(old m - gen) for exp((old - gen) m)",
        "unslothai/unsloth-zoo@a5efee2c",
        OneOperandMasked,
        SequenceImportance,
        ("masking",),
        PG,
    ),
    Fault(
        "B008",
        "KL of masked tokens leaks through the discounted return",
        "THUDM/slime@166441911",
        KlOfMaskedTokens,
        ReturnWithKl,
        ("masking",),
        Contract(family="policy_gradient", normalizer="global", surrogate_gradient=True),
    ),
    Fault(
        "B018",
        "entropy quantile over padded positions",
        "huggingface/trl@97085539a",
        QuantileOverPadding,
        EntropyThreshold,
        ("masking",),
        Contract(family="policy_gradient", coupled=True),
    ),
    Fault(
        "B029",
        "whitening after masking moves masked advantages off 0",
        "volcengine/verl@4e9586a3a",
        WhitenedAfterMasking,
        Whitened,
        ("masking",),
        Contract(family="policy_gradient", normalizer="local", coupled=True),
    ),
    Fault(
        "B030",
        "masking after a non-finite term leaves NaN in the gradient",
        "pytorch/pytorch#89543",
        RatioMaskedAfterExp,
        RatioOfMasked,
        ("masking",),
        PG,
    ),
)
