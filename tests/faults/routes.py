"""Routes: a constant that receives gradient, or a trainable that receives none."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from loss_reference import Contract, LossFunction
from tests.faults.fault import ADVICE, UNSEEN, Fault
from tests.faults.masked_terms import JsdLogs
from tests.faults.parts import (
    constant,
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

SFT = Contract(family="supervised", level="token", normalizer="global", lower_bound=0.0)
PG = Contract(family="policy_gradient", normalizer="global")
KD = Contract(family="distillation", level="token", normalizer="global", lower_bound=0.0)
VALUE = Contract(family="value", level="token", normalizer="global", lower_bound=0.0)


class LiveTeacher(JsdLogs):
    """The teacher is read without detach."""

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        s = kept(model_outputs["logits"][:, :-1], m).log_softmax(-1).clamp(min=-1e4)
        t = kept(self.teacher(batch), m).log_softmax(-1).clamp(min=-1e4)
        return token_mean((t.exp() * (t - s)).sum(-1), m, batch)

    def teacher(self, batch):
        return batch["teacher_logits"][:, :-1]


class DetachedTeacher(LiveTeacher):
    def teacher(self, batch):
        return batch["teacher_logits"][:, :-1].detach()


class StudentIsTeacher(LiveTeacher):
    """KL(teacher, teacher)."""

    def compute_loss(self, batch, model_outputs):
        return super().compute_loss(batch, {"logits": batch["teacher_logits"].detach()})


class UnderNoGrad(DetachedTeacher):
    def compute_loss(self, batch, model_outputs):
        with torch.no_grad():
            return super().compute_loss(batch, model_outputs)


class LiveOldPolicy(LossFunction):
    """PPO whose old policy is read without detach."""

    def old(self, batch, m):
        return kept(batch["prev_logprobs"][:, 1:], m)

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        rho = (policy(model_outputs, m) - self.old(batch, m)).clamp(max=20).exp()
        a = constant(batch, "advantages", m)
        return token_mean(torch.maximum(-a * rho, -a * rho.clamp(0.8, 1.2)), m, batch)


class DetachedOldPolicy(LiveOldPolicy):
    def old(self, batch, m):
        return constant(batch, "prev_logprobs", m)


class BothDetached(LossFunction):
    """DPO in which the chosen term is taken for a constant as well."""

    def compute_loss(self, batch, model_outputs):
        chosen, rejected = pairs(sequence_ratio(batch, model_outputs))
        w = pair_weights(batch, model_outputs["next_token_logprobs"])
        return pair_mean(F.softplus(rejected.detach() - chosen.detach()) + 0 * chosen, w, batch)


class ClampBeforeHalving(LossFunction):
    """Cosine distance clamp(1 - s, 0, 1) / 2, dead for s < 0."""

    def distance(self, s):
        return (1 - s).clamp(0, 1) / 2

    def compute_loss(self, batch, model_outputs):
        x = F.normalize(model_outputs["embeddings"], dim=1, eps=1e-6)
        i, j = batch["positive_pairs"].T
        return self.distance((x[i] * x[j]).sum(1)).mean()


class ClampAfterHalving(ClampBeforeHalving):
    def distance(self, s):
        return ((1 - s) / 2).clamp(0, 1)


class Cispo(LossFunction):
    """-A sg(min(rho, c)) lp."""

    def term(self, rho, a, lp):
        return -a * rho.clamp(max=1.1).detach() * lp

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        lp = policy(model_outputs, m)
        rho = (lp - constant(batch, "prev_logprobs", m)).clamp(max=20).exp()
        return token_mean(self.term(rho, constant(batch, "advantages", m), lp), m, batch)


class CispoClippedObjective(Cispo):
    def term(self, rho, a, lp):
        return -a * rho.clamp(max=1.1)


class LiveAdvantage(LossFunction):
    """Actor-critic whose advantage is not detached: the actor term trains the critic."""

    def advantage(self, values, returns):
        return returns - values

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        values = kept(model_outputs["values"][:, 1:], m)
        returns = constant(batch, "returns", m)
        actor = -policy(model_outputs, m) * self.advantage(values, returns)
        return token_mean(actor + 0.5 * (values - returns).square(), m, batch)


class DetachedAdvantage(LiveAdvantage):
    def advantage(self, values, returns):
        return (returns - values).detach()


class Temperature(LossFunction):
    """DPO with a learned temperature."""

    def __init__(self, config=None):
        super().__init__(config)
        self.log_beta = nn.Parameter(torch.tensor(-2.0))

    def beta(self):
        return self.log_beta.exp()

    def compute_loss(self, batch, model_outputs):
        h = sequence_ratio(batch, model_outputs)
        chosen, rejected = pairs(h)
        terms = F.softplus(-self.beta() * (chosen - rejected))
        return pair_mean(terms, pair_weights(batch, h), batch)


class TemperatureByItem(Temperature):
    def beta(self):
        return self.log_beta.exp().item()


FAULTS = (
    Fault(
        "B117",
        "clipped ratio as the objective",
        "allenai/open-instruct@0fecacc93",
        CispoClippedObjective,
        Cispo,
        ("gradient_flow", "direction"),
        Contract(family="policy_gradient", normalizer="global", surrogate_gradient=True),
        bare=ADVICE,
    ),
    Fault(
        "B119",
        "teacher not detached",
        "huggingface/sentence-transformers@99b0a84c",
        LiveTeacher,
        DetachedTeacher,
        ("gradient_flow",),
        KD,
        bare=ADVICE,
        advice=True,
    ),
    Fault(
        "B120", "computed under no_grad", "OpenRLHF/OpenRLHF@1fc0ff25", UnderNoGrad, DetachedTeacher, ("interface",), KD
    ),
    Fault(
        "B121",
        "student term from the teacher's logits",
        "labmlai/annotated_deep_learning_paper_implementations#66",
        StudentIsTeacher,
        DetachedTeacher,
        ("interface", "gradient_flow"),
        KD,
    ),
    Fault(
        "B124",
        "clamp before halving",
        "kornia/kornia@e3981b63e",
        ClampBeforeHalving,
        ClampAfterHalving,
        ("gradient_flow", "positivity"),
        Contract(family="contrastive", lower_bound=0.0, upper_bound=1.0),
        bare=UNSEEN,
        advice=True,
    ),
    Fault(
        "X31",
        "old policy not detached",
        "",
        LiveOldPolicy,
        DetachedOldPolicy,
        ("gradient_flow",),
        PG,
        bare=ADVICE,
        advice=True,
    ),
    Fault(
        "X33",
        "everything detached",
        "",
        BothDetached,
        DividedOnce,
        ("gradient_flow",),
        Contract(family="preference", level="pair"),
    ),
    Fault(
        "X34",
        "live advantage trains the critic",
        "",
        LiveAdvantage,
        DetachedAdvantage,
        ("positivity",),
        Contract(family="composite", normalizer="global", surrogate_gradient=True),
        bare=ADVICE,
    ),
    Fault(
        "X35",
        "learned temperature through .item()",
        "",
        TemperatureByItem,
        Temperature,
        ("gradient_flow",),
        Contract(family="preference", level="pair", normalizer="global"),
    ),
)
