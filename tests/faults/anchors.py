"""Anchors: points where the gradient is known, and shifts that must change nothing."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from loss_reference import Contract, LossFunction, Option
from tests.faults.fault import ADVICE, FAILED, UNSEEN, Fault
from tests.faults.parts import (
    constant,
    kept,
    pair_mean,
    pair_weights,
    pairs,
    policy,
    row_weights,
    token_mean,
    token_weights,
)

PG = Contract(family="policy_gradient", level="token", normalizer="global")
VALUE = Contract(family="value", level="token", normalizer="global", lower_bound=0.0)
DPO = Contract(family="preference", level="pair", normalizer="global", lower_bound=0.0)


class BothTempered(LossFunction):
    """KL(p_T || q_T) of teacher and student at one temperature."""

    def __init__(self, config=None):
        super().__init__(config)
        self.temperature = self.config.get("temperature", 1.0)

    def scores(self, student, teacher):
        return student / self.temperature, teacher / self.temperature

    def distributions(self, student, teacher):
        return student.log_softmax(-1), teacher.log_softmax(-1)

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        z_q, z_p = kept(model_outputs["logits"][:, :-1], m), kept(batch["teacher_logits"][:, :-1].detach(), m)
        q, p = self.distributions(*self.scores(z_q, z_p))
        difference = torch.where(torch.isinf(p), 0.0, p - q)
        return token_mean((p.exp() * difference).sum(-1), m, batch)


class TeacherTempered(BothTempered):
    """The student stays at temperature 1."""

    def scores(self, student, teacher):
        return student, teacher / self.temperature


class TeacherSharpened(BothTempered):
    """The teacher at half the temperature, fixed in the code: the student is to become surer than the teacher is."""

    def scores(self, student, teacher):
        return student / self.temperature, 2 * teacher / self.temperature


class ValueTarget(LossFunction):
    """(v - R)^2, and how far v may leave the old value."""

    def target(self, returns, old):
        return returns

    def compute_loss(self, batch, model_outputs):
        m = batch["token_mask"] * row_weights(batch, batch["token_mask"])[:, None]
        v, r, old = (kept(x, m) for x in (model_outputs["values"], batch["returns"].detach(), batch["values"].detach()))
        error = (v - self.target(r, old)).square() + 0.1 * (v - old).square()
        n = batch.get("global_valid_toks", m.sum())
        return (error * m).sum() / n.clamp(min=1)


class OldValueAddedAgain(ValueTarget):
    """The old value is added to the return, as to an advantage: the return holds it already."""

    def target(self, returns, old):
        return returns + old


class OwnAdvantage(LossFunction):
    """-A rho."""

    def advantages(self, a):
        return a

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        ratio = (policy(model_outputs, m) - constant(batch, "prev_logprobs", m)).clamp(max=20).exp()
        return token_mean(-self.advantages(constant(batch, "advantages", m)) * ratio, m, batch)


class NextAdvantage(OwnAdvantage):
    """Advantages rolled by one after they were masked: every token moves by that of the one before it."""

    def advantages(self, a):
        return a.roll(1, dims=1)


class SignLost(OwnAdvantage):
    """Negative advantages are damped, and lose their sign on the way."""

    def advantages(self, a):
        return torch.where(a > 0, a, 0.5 * a.abs())


class HalfTheGradient(OwnAdvantage):
    """Divided by two as well."""

    def advantages(self, a):
        return a / 2


class DpoOfLogits(LossFunction):
    """DPO on log-probabilities of the sampled tokens."""

    def normalised(self, z):
        return z.log_softmax(-1)

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        z = self.normalised(kept(model_outputs["logits"][:, :-1], m))
        lp = z.gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1)
        h = kept(lp - constant(batch, "reference_policy_logprobs", m), m).sum(1)
        chosen, rejected = pairs(h)
        return pair_mean(F.softplus(-0.1 * (chosen - rejected)), pair_weights(batch, h), batch)


class DpoOfRawLogits(DpoOfLogits):
    """The logits of the sampled tokens, as they come."""

    def normalised(self, z):
        return z


class SquareOfLogits(BothTempered):
    """Soft cross-entropy."""

    def distributions(self, student, teacher):
        return student.log_softmax(-1), teacher.log_softmax(-1)

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        z_q, z_p = kept(model_outputs["logits"][:, :-1], m), kept(batch["teacher_logits"][:, :-1].detach(), m)
        q, p = self.distributions(z_q, z_p)
        return token_mean(-(p.exp() * torch.where(p.exp() > 0, q, 0.0)).sum(-1), m, batch)


class StudentNotNormalised(SquareOfLogits):
    """The teacher's probabilities times the student's raw logits."""

    def distributions(self, student, teacher):
        return student, teacher.log_softmax(-1)


class CentredPairs(LossFunction):
    """Bradley-Terry with a centring term."""

    def centre(self, x):
        return x.square()

    def compute_loss(self, batch, model_outputs):
        w = pair_weights(batch, model_outputs["rewards"])
        chosen, rejected = (kept(r, w) for r in pairs(model_outputs["rewards"]))
        return pair_mean(F.softplus(rejected - chosen) + 0.01 * self.centre(chosen + rejected), w, batch)


class CentredWithoutSquare(CentredPairs):
    """The square is missing: the lower both rewards, the lower the loss."""

    def centre(self, x):
        return x


TEMPERATURE = {"temperature": Option(values=(1.0, 2.0))}
HEATED = Contract(family="distillation", level="token", normalizer="global", lower_bound=0.0, options=TEMPERATURE)

FAULTS = (
    Fault(
        "X200",
        "temperature of the teacher alone",
        "",
        TeacherTempered,
        BothTempered,
        ("positivity",),
        HEATED,
        bare=FAILED,
    ),
    Fault(
        "X201",
        "the teacher sharpened, the student not",
        "",
        TeacherSharpened,
        BothTempered,
        ("positivity",),
        HEATED,
        bare=ADVICE,
    ),
    Fault(
        "X202",
        "the old value added to the return",
        "",
        OldValueAddedAgain,
        ValueTarget,
        ("positivity",),
        VALUE,
        bare=ADVICE,
    ),
    Fault("X203", "advantages rolled by one", "", NextAdvantage, OwnAdvantage, ("direction",), PG),
    Fault("X204", "negative advantages lose their sign", "", SignLost, OwnAdvantage, ("direction",), PG),
    Fault(
        "X205",
        "half the policy gradient",
        "",
        HalfTheGradient,
        OwnAdvantage,
        ("direction",),
        PG,
        bare=UNSEEN,
        advice=True,
    ),
    Fault("X206", "raw logits taken for log-probabilities", "", DpoOfRawLogits, DpoOfLogits, ("symmetry",), DPO),
    Fault(
        "X207",
        "the student's logits not normalised",
        "",
        StudentNotNormalised,
        SquareOfLogits,
        ("symmetry",),
        Contract(family="distillation", level="token", normalizer="global"),
    ),
    Fault(
        "X208",
        "a centring term without its square",
        "",
        CentredWithoutSquare,
        CentredPairs,
        ("symmetry",),
        Contract(family="reward", level="pair", normalizer="global"),
    ),
)
