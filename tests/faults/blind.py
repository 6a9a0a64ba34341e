"""Mistakes that somebody planted who had not seen the checks, and that went unseen at first; rebuilt small."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from loss_reference import Contract, Field, LossFunction, Option
from tests.faults.fault import ADVICE, UNSEEN, Fault
from tests.faults.parts import constant, kept, pair_mean, pair_weights, pairs, policy, token_mean, token_weights


class NormalisedByItsMean(LossFunction):
    """NLL over a running mean of itself, which moves in training alone."""

    def __init__(self, config=None):
        super().__init__(config)
        self.register_buffer("mean", torch.ones(()))

    def moves(self):
        return self.training and torch.is_grad_enabled()

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        loss = token_mean(-policy(model_outputs, m), m, batch)
        scaled = loss / self.mean.clamp(min=1e-2)
        if self.moves():
            self.mean = 0.9 * self.mean + 0.1 * loss.detach()
        return scaled


class MeanMovesInEvaluation(NormalisedByItsMean):
    def moves(self):
        return True


class LearnedWeight(LossFunction):
    """exp(-s) NLL + s with a learned s."""

    def __init__(self, config=None):
        super().__init__(config)
        self.log_variance = self.learned()

    def learned(self):
        return nn.Parameter(torch.zeros(()))

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        terms = torch.exp(-self.log_variance) * -policy(model_outputs, m) + self.log_variance
        return token_mean(terms, m, batch)


class LearnedOutside(LearnedWeight):
    def learned(self):
        return torch.zeros((), requires_grad=True)


class HingeWithImitation(LossFunction):
    """max(0, 1 - p_w + p_l) and a little NLL of one of the two."""

    def imitated(self, p_w, p_l):
        return p_w

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        p_w, p_l = pairs(policy(model_outputs, m).sum(-1))
        terms = F.relu(1.0 - p_w + p_l) - 0.1 * self.imitated(p_w, p_l)
        return pair_mean(terms, pair_weights(batch, m), batch)


class ImitatesTheRejected(HingeWithImitation):
    def imitated(self, p_w, p_l):
        return p_l


class Capped(LossFunction):
    """A token's importance weight is capped; the log-probability carries the gradient."""

    def surrogate(self, ratio, lp):
        return ratio.clamp(max=1.2).detach() * lp

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        lp = policy(model_outputs, m)
        ratio = torch.exp((lp - constant(batch, "prev_logprobs", m)).clamp(max=20))
        return token_mean(-constant(batch, "advantages", m) * self.surrogate(ratio, lp), m, batch)


class CappedAlone(Capped):
    def surrogate(self, ratio, lp):
        return ratio.clamp(max=1.2)


class Smoothed(nn.Module):
    """DPO with label smoothing, of answers."""

    def __init__(self, beta=0.5, smoothing=0.2):
        super().__init__()
        self.beta, self.smoothing = beta, smoothing

    def flipped(self, x):
        return F.logsigmoid(-x)

    def forward(self, policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps):
        h_w, h_l = policy_chosen_logps - reference_chosen_logps, policy_rejected_logps - reference_rejected_logps
        x = self.beta * (h_w - h_l)
        return (-(1 - self.smoothing) * F.logsigmoid(x) - self.smoothing * self.flipped(x)).mean()


class SmoothedTowardsItself(Smoothed):
    def flipped(self, x):
        return F.logsigmoid(x)


class Exchanged(Smoothed):
    def forward(self, policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps):
        return super().forward(
            policy_rejected_logps, policy_chosen_logps, reference_rejected_logps, reference_chosen_logps
        )


def log_softmaxes(mask, *logits):
    return (torch.where(mask[..., None] != 0, z, 0.0).log_softmax(-1).clamp(min=-1e4) for z in logits)


def divergence(log_p, log_q):
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def both_ways(student_logits, teacher_logits, mask, alpha=0.5):
    log_q, log_p = log_softmaxes(mask, student_logits, teacher_logits.detach())
    terms = alpha * divergence(log_p, log_q) + (1 - alpha) * divergence(log_q, log_p)
    return (terms * mask).sum() / mask.sum().clamp(min=1)


def teacher_with_itself(student_logits, teacher_logits, mask, alpha=0.5):
    log_q, log_p = log_softmaxes(mask, student_logits, teacher_logits.detach())
    terms = alpha * divergence(log_p, log_p) + (1 - alpha) * divergence(log_q, log_p)
    return (terms * mask).sum() / mask.sum().clamp(min=1)


def forward_kl(student_logits, teacher_logits, mask):
    log_q, log_p = log_softmaxes(mask, student_logits, teacher_logits)
    return (divergence(log_p, log_q) * mask).sum() / mask.sum().clamp(min=1)


def forward_kl_of_constant(student_logits, teacher_logits, mask):
    return forward_kl(student_logits, teacher_logits.detach(), mask)


def standardised(log_prob, rewards, response_mask, fewest=1):
    """REINFORCE with rewards in units of their standard deviation."""
    here = response_mask.any(-1)
    r = torch.where(here, rewards.detach(), 0.0)
    centred = torch.where(here, r - r.sum() / here.sum().clamp(min=1), 0.0)
    std = (centred.square().sum() / (here.sum() - 1).clamp(min=fewest)).sqrt()
    terms = -(centred / (std + 1e-4)).unsqueeze(-1) * kept(log_prob, response_mask)
    return (terms * response_mask).sum() / response_mask.sum().clamp(min=1)


def standardised_by_none(log_prob, rewards, response_mask):
    return standardised(log_prob, rewards, response_mask, fewest=0)


def cross_entropy(logits, labels):
    summed = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=-100, reduction="sum")
    return summed / (labels != -100).sum().clamp(min=1)


def with_z_loss(logits, labels):
    valid = labels != -100
    z = torch.where(valid, torch.where(valid.unsqueeze(-1), logits, 0.0).logsumexp(-1), 0.0)
    return cross_entropy(logits, labels) + 0.01 * z.square().sum() / valid.sum().clamp(min=1)


def with_z_loss_over_positions(logits, labels):
    return cross_entropy(logits, labels) + 0.01 * logits.logsumexp(1).square().mean()


def dpo(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.2):
    policy_margin = policy_chosen_logps - policy_rejected_logps
    return -F.logsigmoid(beta * (policy_margin - (reference_chosen_logps - reference_rejected_logps))).mean()


def dpo_with_the_reference_exchanged(
    policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps, beta=0.2
):
    return dpo(policy_chosen_logps, policy_rejected_logps, reference_rejected_logps, reference_chosen_logps, beta)


class ClippedValue(LossFunction):
    """The larger of the errors of a value and of its clipped self."""

    worse = staticmethod(torch.maximum)

    def compute_loss(self, batch, model_outputs):
        m = batch["token_mask"] * batch["sample_mask"].unsqueeze(1)
        v, old, R = (kept(x, m) for x in (model_outputs["values"], batch["values"], batch["returns"]))
        clipped = old + (v - old).clamp(-0.2, 0.2)
        terms = self.worse((v - R).square(), (clipped - R).square())
        return (terms * m).sum() / m.sum().clamp(min=1)


class BetterOfTwo(ClippedValue):
    worse = staticmethod(torch.minimum)


def soft_cross_entropy(student_logits, teacher_logits, mask):
    log_q, log_p = log_softmaxes(mask, student_logits, teacher_logits.detach())
    return -((log_p.exp() * log_q).sum(-1) * mask).sum() / mask.sum().clamp(min=1)


def soft_cross_entropy_without_minus(student_logits, teacher_logits, mask):
    return -soft_cross_entropy(student_logits, teacher_logits, mask)


def root_mean_square(input, target):
    return ((input - target.detach()).square().mean() + 1e-12).sqrt()


def root_mean_square_at_its_kink(input, target):
    return (input - target.detach()).square().mean().sqrt()


class EntropyBonus(LossFunction):
    """-A lp - c H."""

    sign = -1.0

    def __init__(self, config=None):
        super().__init__(config)
        self.coefficient = self.config.get("entropy_coef", 0.01)

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        log_pi = torch.where((m != 0)[..., None], model_outputs["logits"][:, :-1], 0.0).log_softmax(-1)
        lp = log_pi.gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1)
        entropy = -(log_pi.exp() * log_pi.clamp(min=-1e4)).sum(-1)
        return token_mean(-constant(batch, "advantages", m) * lp + self.sign * self.coefficient * entropy, m, batch)


class EntropyPenalty(EntropyBonus):
    sign = 1.0


SFT = Contract(family="supervised", level="token", normalizer="global")
STATEFUL = Contract(family="supervised", stateful=True, surrogate_gradient=True)
PAIRS = Contract(family="preference", level="pair")
OF_TOKENS = Contract(family="policy_gradient", level="token", normalizer="global", surrogate_gradient=True)
BONUS = Contract(
    family="policy_gradient", direction={"entropy_coef": -1}, options={"entropy_coef": Option(values=(0.0, 0.1))}
)
ANSWERS = Contract(
    family="policy_gradient",
    coupled=True,
    fields={
        "log_prob": Field("logprobs", "B T"),
        "rewards": Field("rewards", "B"),
        "response_mask": Field("mask", "B T"),
    },
)
FLATTENED = Contract(
    family="supervised", fields={"logits": Field("logits", "N T V", trainable=True), "labels": Field("labels", "N T")}
)
KD = Contract(family="distillation")
REGRESSION = Contract(fields={"input": Field("values", "B", trainable=True), "target": Field("values", "B")})

FAULTS = (
    Fault(
        "X350",
        "a running mean that moves in evaluation",
        "",
        MeanMovesInEvaluation,
        NormalisedByItsMean,
        ("interface",),
        STATEFUL,
    ),
    Fault(
        "X351",
        "learned, and no parameter",
        "",
        LearnedOutside,
        LearnedWeight,
        ("gradient_flow",),
        Contract(normalizer="global"),
    ),
    Fault(
        "X352",
        "the rejected answer is imitated",
        "",
        ImitatesTheRejected,
        HingeWithImitation,
        ("direction",),
        PAIRS,
        bare=UNSEEN,
    ),
    Fault("X353", "the capped ratio is the surrogate", "", CappedAlone, Capped, ("direction",), OF_TOKENS, bare=ADVICE),
    Fault(
        "X354",
        "smoothed towards the same label",
        "",
        SmoothedTowardsItself,
        Smoothed,
        ("options",),
        Contract(family="preference", level="pair", options={"smoothing": Option(values=(0.0, 0.2))}),
        bare=ADVICE,
    ),
    Fault("X355", "chosen and rejected exchanged", "", Exchanged, Smoothed, ("direction",), PAIRS),
    Fault(
        "X356",
        "the teacher compared with itself",
        "",
        teacher_with_itself,
        both_ways,
        ("options",),
        KD,
        bare=ADVICE,
        advice=True,
    ),
    Fault(
        "X357",
        "a live teacher",
        "",
        forward_kl,
        forward_kl_of_constant,
        ("gradient_flow",),
        KD,
        bare=ADVICE,
        advice=True,
    ),
    Fault("X358", "the deviation of one answer", "", standardised_by_none, standardised, ("finite",), ANSWERS),
    Fault("X359", "log-sum-exp over positions", "", with_z_loss_over_positions, with_z_loss, ("masking",), FLATTENED),
    Fault("X360", "entropy held down", "", EntropyPenalty, EntropyBonus, ("direction",), BONUS, bare=ADVICE),
    Fault(
        "X361",
        "the reference of chosen and rejected exchanged",
        "",
        dpo_with_the_reference_exchanged,
        dpo,
        ("direction",),
        PAIRS,
    ),
    Fault(
        "X362",
        "the smaller of two errors",
        "",
        BetterOfTwo,
        ClippedValue,
        ("direction",),
        Contract(family="value"),
        bare=ADVICE,
    ),
    Fault(
        "X363",
        "a soft cross-entropy without its minus",
        "",
        soft_cross_entropy_without_minus,
        soft_cross_entropy,
        ("direction",),
        KD,
    ),
    Fault(
        "X364",
        "the root of 0",
        "",
        root_mean_square_at_its_kink,
        root_mean_square,
        ("finite",),
        REGRESSION,
        bare=UNSEEN,
    ),
)
