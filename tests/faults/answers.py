"""Answers beside each other: the length, the weight or the reward of one is taken for that of another."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from loss_reference import Contract, LossFunction
from tests.faults.fault import ADVICE, UNSEEN, Fault
from tests.faults.parts import kept, pair_mean, pair_weights, pairs, policy, row_weights, token_mean, token_weights


class MeanLogRatios(LossFunction):
    """SimPO: mean log-probabilities of two answers, each over its own tokens."""

    def means(self, totals, lengths):
        return pairs(totals / lengths)

    def compute_loss(self, batch, model_outputs):
        m = kept(batch["token_mask"][:, 1:], row_weights(batch, model_outputs["next_token_logprobs"]))
        lp = kept(model_outputs["next_token_logprobs"], m)
        chosen, rejected = self.means((lp * m).sum(1), m.sum(1).clamp(min=1))
        return pair_mean(F.softplus(0.5 - 2 * (chosen - rejected)), pair_weights(batch, lp), batch)


class LengthOfTheChosen(MeanLogRatios):
    def means(self, totals, lengths):
        return totals[0::2] / lengths[0::2], totals[1::2] / lengths[0::2]


class WholePairs(LossFunction):
    """DPO, a pair weighing as much as the lighter of its rows."""

    def weights(self, batch, like):
        return pair_weights(batch, like)

    def compute_loss(self, batch, model_outputs):
        lp, ref = model_outputs["next_token_logprobs"], batch["reference_policy_logprobs"][:, 1:].detach()
        m = kept(batch["token_mask"][:, 1:], row_weights(batch, lp))
        chosen, rejected = pairs((kept(lp, m) - kept(ref, m)).sum(1))
        return pair_mean(F.softplus(0.1 * (rejected - chosen)), self.weights(batch, lp), batch)


class WeightOfTheChosen(WholePairs):
    def weights(self, batch, like):
        return row_weights(batch, like)[0::2]


class LeaveOneOut(LossFunction):
    """RLOO over the batch: the mean reward of the other answers is the baseline."""

    def others(self, w):
        return w.sum() - w

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        w = row_weights(batch, m)
        r = kept(batch["rewards"].detach(), w)
        others = self.others(w)
        baseline = ((w * r).sum() - w * r) / torch.where(others > 0, others, 1.0)
        return -token_mean((r - baseline)[:, None] * policy(model_outputs, m), m, batch)


class LeaveNoneOut(LeaveOneOut):
    """Divided by all answers although one is left out of the sum."""

    def others(self, w):
        return w.sum().expand_as(w)


FAULTS = (
    Fault(
        "X415",
        "both answers are divided by the length of the chosen one",
        "",
        LengthOfTheChosen,
        MeanLogRatios,
        ("reduction",),
        Contract(family="preference", level="pair", normalizer="global", length_normalized=True, lower_bound=0.0),
        bare=UNSEEN,
    ),
    Fault(
        "X416",
        "a pair has the weight of its chosen row",
        "",
        WeightOfTheChosen,
        WholePairs,
        ("masking",),
        Contract(family="preference", level="pair", normalizer="global", lower_bound=0.0),
        bare=UNSEEN,
        advice=True,
    ),
    Fault(
        "X417",
        "the leave-one-out baseline divides by all answers",
        "",
        LeaveNoneOut,
        LeaveOneOut,
        ("symmetry",),
        Contract(family="policy_gradient", level="token", normalizer="global", coupled=True),
        bare=ADVICE,
    ),
)
