"""Mistakes of one side: of a pair, of a ratio, of a ranking, of a triplet, of an advantage."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from loss_reference import Contract, Field, LossFunction, Option
from tests.faults.fault import ADVICE, Fault
from tests.faults.parts import kept, pair_mean, row_mean, row_weights, token_mean, token_weights

PAIRS = Contract(family="preference", level="pair", normalizer="global")
PAIRS_WITHOUT_REFERENCE = Contract(family="preference", level="pair", normalizer="global", lower_bound=0.0)
RANKED = Contract(family="preference", level="sequence", normalizer="global", group_size=3)
OFF_POLICY = Contract(family="policy_gradient", level="token", normalizer="global", surrogate_gradient=True)
SAMPLED = Contract(family="distillation", level="token", normalizer="global", surrogate_gradient=True)
GEOMETRIC = Contract(family="policy_gradient", level="sequence", normalizer="global")
TRIPLETS = Contract(
    family="contrastive",
    fields={name: Field("embeddings", "B D", trainable=True) for name in ("anchor", "positive", "negative")},
)
IN_GROUPS = Contract(
    family="policy_gradient",
    level="token",
    normalizer="local",
    group_size=2,
    coupled=True,
    fields={
        "log_probs": Field("logprobs", "B T", trainable=True),
        "old_log_probs": Field("logprobs", "B T", trainable=False),
        "rewards": Field("rewards", "B", trainable=False),
        "mask": Field("mask", "B T"),
    },
    options={"group_size": Option(values=(2,))},
)


class MeanGap(LossFunction):
    """A hinge on the gap between the mean log-probabilities of two answers."""

    def gap(self, chosen, rejected):
        return chosen - rejected

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        p = kept(model_outputs["next_token_logprobs"], m).sum(1) / (m != 0).sum(1).clamp(min=1)
        w = torch.minimum(*(row_weights(batch, p)[side::2] for side in (0, 1)))
        return pair_mean(F.softplus(-self.gap(p[0::2], p[1::2])), w, batch)


class ChosenAlone(MeanGap):
    def gap(self, chosen, rejected):
        return chosen


class TwoTermGap(LossFunction):
    """The gap of u(h) = exp(h) + h between two answers, h = log(policy / reference)."""

    def gap(self, ratio, log_ratio):
        return ratio + log_ratio

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        lp, ref = model_outputs["next_token_logprobs"], batch["reference_policy_logprobs"][:, 1:].detach()
        h = (kept(lp, m) - kept(ref, m)).sum(1)
        u = h.clamp(max=20).exp()
        w = torch.minimum(*(row_weights(batch, h)[side::2] for side in (0, 1)))
        return pair_mean(F.softplus(-0.1 * self.gap(u[0::2] - u[1::2], h[0::2] - h[1::2])), w, batch)


class OneTermReversed(TwoTermGap):
    def gap(self, ratio, log_ratio):
        return ratio - log_ratio


class WeighedLogLikelihood(LossFunction):
    """REINFORCE on samples of another policy: each token weighed by a capped ratio, held constant."""

    def log_ratio(self, lp, lp_old):
        return lp - lp_old

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        lp = kept(model_outputs["next_token_logprobs"], m)
        lp_old, a = (kept(batch[name][:, 1:].detach(), m) for name in ("prev_logprobs", "advantages"))
        weight = self.log_ratio(lp.detach(), lp_old).clamp(max=1.0).exp()
        return token_mean(-weight * a * lp, m, batch)


class InverselyWeighed(WeighedLogLikelihood):
    def log_ratio(self, lp, lp_old):
        return lp_old - lp


class GeometricRatio(LossFunction):
    """The geometric mean of ratios, their logarithms clipped at 0.4 where the policy has moved far enough."""

    def bounded(self, moved, bound):
        return torch.minimum(moved, bound)

    def times_advantage(self, ratio, a):
        return ratio * a

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        lp = kept(model_outputs["next_token_logprobs"], m)
        lp_old, a = (kept(batch[name][:, 1:].detach(), m) for name in ("prev_logprobs", "advantages"))
        delta, sign = lp - lp_old, torch.sign(a)
        d = sign * self.bounded(sign * delta, sign * delta.clamp(-0.4, 0.4))
        n = m.sum(1).clamp(min=1e-6)
        ratio = ((d * m).sum(1) / n).clamp(max=20).exp()
        return row_mean(-self.times_advantage(ratio, (a * m).sum(1) / n), row_weights(batch, ratio), batch)


class StopsWhatHasToReturn(GeometricRatio):
    def bounded(self, moved, bound):
        return torch.maximum(moved, bound)


class AdvantageForItsSign(GeometricRatio):
    def times_advantage(self, ratio, a):
        return ratio


class RankedAnswers(LossFunction):
    """Every better answer of three against every worse one, by the difference of their log-ratios."""

    def ahead(self, h):
        return h.unsqueeze(2) - h.unsqueeze(1)

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        lp, ref = model_outputs["next_token_logprobs"], batch["reference_policy_logprobs"][:, 1:].detach()
        h = (kept(lp, m) - kept(ref, m)).sum(1).reshape(-1, 3)
        r = batch["rewards"].detach().reshape(-1, 3)
        w = row_weights(batch, lp).reshape(-1, 3)
        counts = (r.unsqueeze(2) > r.unsqueeze(1)) & ((w.unsqueeze(2) * w.unsqueeze(1)) != 0)
        terms = kept(F.softplus(-0.1 * self.ahead(h)), counts).sum((1, 2))
        return row_mean(terms.repeat_interleave(3) / 3, row_weights(batch, lp), batch)


class RankedUpsideDown(RankedAnswers):
    def ahead(self, h):
        return h.unsqueeze(1) - h.unsqueeze(2)


class TowardsTeacher(LossFunction):
    """The reverse divergence on tokens the student sampled: log-probabilities, weighed by how much the teacher prefers them."""

    def weight(self, lp, lp_teacher):
        return lp - lp_teacher

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        lp, lp_teacher = kept(model_outputs["next_token_logprobs"], m), kept(batch["teacher_logprobs"][:, 1:], m)
        return token_mean(self.weight(lp, lp_teacher).detach() * lp, m, batch)


class AwayFromTeacher(TowardsTeacher):
    def weight(self, lp, lp_teacher):
        return lp_teacher - lp


class RewardGap(LossFunction):
    """The squared distance of the gap in log-ratios from the gap in rewards."""

    def gap(self, chosen, rejected):
        return chosen - rejected

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        lp, ref = model_outputs["next_token_logprobs"], batch["reference_policy_logprobs"][:, 1:].detach()
        h, r = (kept(lp, m) - kept(ref, m)).sum(1), batch["rewards"].detach()
        w = torch.minimum(*(row_weights(batch, h)[side::2] for side in (0, 1)))
        wanted = self.gap(*(kept(r[side::2], w) for side in (0, 1)))
        return pair_mean((h[0::2] - h[1::2] - wanted) ** 2, w, batch)


class RewardSum(RewardGap):
    def gap(self, chosen, rejected):
        return chosen + rejected


class FarFromNegatives(nn.Module):
    """The softplus of how much nearer the negative is than the positive."""

    def nearer(self, positive, negative):
        return negative - positive

    def forward(self, anchor, positive, negative):
        positive, negative = (F.cosine_similarity(anchor, other, dim=-1, eps=1e-6) for other in (positive, negative))
        return F.softplus(self.nearer(positive, negative) / 0.2).mean()


class NearToBoth(FarFromNegatives):
    def nearer(self, positive, negative):
        return -negative - positive


class InGroups(nn.Module):
    """A ratio times the advantage over the other answers to the same prompt, which are neighbouring rows."""

    def __init__(self, group_size=2):
        super().__init__()
        self.group_size = group_size

    def centred(self, rewards):
        groups = rewards.view(-1, self.group_size)
        return (groups - groups.mean(dim=1, keepdim=True)).reshape(-1)

    def forward(self, log_probs, old_log_probs, rewards, mask):
        m = mask != 0
        ratio = (kept(log_probs, m) - kept(old_log_probs, m).detach()).clamp(max=20).exp()
        terms = -ratio * self.centred(rewards.detach())[:, None]
        return kept(terms, m).sum() / m.sum().clamp(min=1)


class AcrossPrompts(InGroups):
    def centred(self, rewards):
        groups = rewards.view(self.group_size, -1)
        return (groups - groups.mean(dim=0, keepdim=True)).reshape(-1)


FAULTS = (
    Fault(
        "X524",
        "the rejected answer is left out of the gap",
        "",
        ChosenAlone,
        MeanGap,
        ("gradient_flow",),
        PAIRS_WITHOUT_REFERENCE,
        bare=ADVICE,
    ),
    Fault(
        "X525",
        "one of two terms of the gap is reversed",
        "",
        OneTermReversed,
        TwoTermGap,
        ("direction",),
        PAIRS,
        bare=ADVICE,
    ),
    Fault(
        "X526",
        "the importance weight is the inverse of a ratio",
        "",
        InverselyWeighed,
        WeighedLogLikelihood,
        ("direction",),
        OFF_POLICY,
        bare=ADVICE,
    ),
    Fault(
        "X527",
        "the clip, wider than usual, stops what has to return",
        "",
        StopsWhatHasToReturn,
        GeometricRatio,
        ("direction",),
        GEOMETRIC,
    ),
    Fault(
        "X528",
        "the advantage is read for its sign alone",
        "",
        AdvantageForItsSign,
        GeometricRatio,
        ("direction",),
        GEOMETRIC,
        bare=ADVICE,
    ),
    Fault("X529", "the ranking upside down", "", RankedUpsideDown, RankedAnswers, ("direction",), RANKED, bare=ADVICE),
    Fault("X530", "negatives attract", "", NearToBoth, FarFromNegatives, ("direction",), TRIPLETS),
    Fault(
        "X531",
        "groups along the wrong axis",
        "",
        AcrossPrompts,
        InGroups,
        ("symmetry",),
        IN_GROUPS,
    ),
    Fault("X536", "away from the teacher", "", AwayFromTeacher, TowardsTeacher, ("direction",), SAMPLED, bare=ADVICE),
    Fault("X537", "the sum of two rewards", "", RewardSum, RewardGap, ("direction",), PAIRS, bare=ADVICE),
)
