"""Masks: too late, shifted, one-sided, or forgotten."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from loss_reference import Contract, LossFunction
from tests.faults.fault import Fault
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
    token_mean,
    token_weights,
)

SFT = Contract(family="supervised", level="token", normalizer="global", lower_bound=0.0)
PG = Contract(family="policy_gradient", level="token", normalizer="global")
DPO = Contract(family="preference", level="pair", normalizer="global", lower_bound=0.0)
KD = Contract(family="distillation", level="token", normalizer="global", lower_bound=0.0)


class Nll(LossFunction):
    """-mean lp over trained tokens."""

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        return token_mean(-policy(model_outputs, m), m, batch)


class NanTimesMask(LossFunction):
    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        n = batch.get("global_valid_toks", m.sum())
        return (-model_outputs["next_token_logprobs"] * m).sum() / n.clamp(min=1)


class MeanOverPadding(LossFunction):
    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        return (-policy(model_outputs, m) * m).mean()


class LocalNll(LossFunction):
    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        return (-policy(model_outputs, m) * m).sum() / m.sum().clamp(min=1)


class MaskNotShifted(LossFunction):
    def compute_loss(self, batch, model_outputs):
        m = batch["token_mask"][:, :-1] * row_weights(batch, batch["token_mask"])[:, None]
        return token_mean(-policy(model_outputs, m), m, batch)


class LastTokenLeftOut(LossFunction):
    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        followed = torch.cat((m[:, 1:], torch.zeros_like(m[:, :1])), 1)
        m = m * (followed != 0)
        return token_mean(-policy(model_outputs, m), m, batch)


class RowsCountedNotWeighed(LossFunction):
    def compute_loss(self, batch, model_outputs):
        m = batch["token_mask"][:, 1:]
        w = batch["sample_mask"]
        lengths = m.sum(1).clamp(min=1)
        return ((-policy(model_outputs, m * w[:, None])).sum(1) / lengths * w).mean()


class RowsWeighed(LossFunction):
    def compute_loss(self, batch, model_outputs):
        m = batch["token_mask"][:, 1:]
        w = batch["sample_mask"]
        lengths = m.sum(1).clamp(min=1)
        return row_mean((-policy(model_outputs, m * w[:, None])).sum(1) / lengths, w, batch)


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
        return chosen.quantile(0.5) if chosen.numel() else entropy.new_zeros(())

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
        return entropy.quantile(0.5)


class Whitened(LossFunction):
    """Advantages whitened over the trained tokens."""

    def advantages(self, batch, m):
        a = constant(batch, "advantages", m)
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


class OrpoNll(LossFunction):
    """A preference term plus the NLL of the chosen sequence."""

    def nll_mask(self, m):
        return m

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        lp = policy(model_outputs, m)
        mean = lp.sum(1) / m.sum(1).clamp(min=1)
        chosen, rejected = pairs(mean)
        prefer = F.softplus(rejected - chosen)
        n = self.nll_mask(m)[0::2]
        own = kept(model_outputs["next_token_logprobs"][0::2], n)
        nll = -own.sum(1) / n.sum(1).clamp(min=1)
        return pair_mean(prefer + nll, pair_weights(batch, mean), batch)


class OrpoNllOnPrompt(OrpoNll):
    def nll_mask(self, m):
        return torch.ones_like(m)


class SoftMaximum(LossFunction):
    """The masked log-sum-exp of the values of a row, minus the mean of its returns."""

    def log_sum_exp(self, x, m):
        return torch.where(m != 0, x, float("-inf")).logsumexp(1)

    def compute_loss(self, batch, model_outputs):
        m = batch["token_mask"] * row_weights(batch, batch["token_mask"])[:, None]
        some = (m != 0).any(1)
        inside = torch.where(some[:, None], m, torch.ones_like(m))
        x = torch.where(some[:, None], model_outputs["values"], 0.0)
        top = self.log_sum_exp(x, inside)
        target = kept(batch["returns"], m).sum(1).detach()
        w = some.to(m) * row_weights(batch, m)
        return row_mean((top - target).square(), w, batch)


class MaximumOfMasked(SoftMaximum):
    def log_sum_exp(self, x, m):
        largest = x.amax(1, keepdim=True)
        return ((x - largest).exp() * (m != 0)).sum(1).log() + largest.squeeze(1)


class IgnoreIndexHardCoded(torch.nn.Module):
    """Cross-entropy whose ignored label is configurable."""

    def __init__(self, ignore_index=0):
        super().__init__()
        self.ignore_index = ignore_index

    def forward(self, logits, labels):
        return F.cross_entropy(logits, labels)


class IgnoreIndexUsed(IgnoreIndexHardCoded):
    def forward(self, logits, labels):
        n = (labels != self.ignore_index).sum().clamp(min=1)
        return F.cross_entropy(logits, labels, ignore_index=self.ignore_index, reduction="sum") / n


FAULTS = (
    Fault(
        "B001", "sum(x m) for sum(where(m, x, 0))", "volcengine/verl@5cbad8379", NanTimesMask, Nll, ("masking",), SFT
    ),
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
        "B011",
        "masked log-sum-exp subtracts the maximum of masked entries too",
        "KevinMusgrave/pytorch-metric-learning@36bedc3",
        MaximumOfMasked,
        SoftMaximum,
        ("masking",),
        Contract(level="sequence", normalizer="global", lower_bound=0.0),
    ),
    Fault(
        "B016",
        "NLL term trains on the prompt",
        "huggingface/trl@88ad1a099",
        OrpoNllOnPrompt,
        OrpoNll,
        ("masking",),
        DPO,
    ),
    Fault(
        "B017",
        "the ignored label is configurable and not used",
        "huggingface/trl@10f70fa33",
        IgnoreIndexHardCoded,
        IgnoreIndexUsed,
        ("masking", "finite", "reduction"),
        Contract(family="supervised", lower_bound=0.0),
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
        "B023",
        "the last trained token (EOS) is masked out",
        "OpenRLHF/OpenRLHF@37aad73e",
        LastTokenLeftOut,
        Nll,
        ("masking",),
        SFT,
    ),
    Fault(
        "B024",
        "mask not shifted with the log-probabilities",
        "CarperAI/trlx@fbc9e04",
        MaskNotShifted,
        Nll,
        ("masking",),
        SFT,
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
    Fault("X01", "mean over padding", "", MeanOverPadding, LocalNll, ("masking",), Contract(family="supervised")),
    Fault(
        "X02",
        "absent rows count in the mean",
        "pytorch/rl@65702c58a",
        RowsCountedNotWeighed,
        RowsWeighed,
        ("masking",),
        Contract(family="supervised", level="sequence"),
    ),
)
