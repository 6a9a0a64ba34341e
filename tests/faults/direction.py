"""Signs, roles and bounds."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from loss_reference import Contract, LossFunction, Option
from tests.faults.fault import ADVICE, FAILED, Fault
from tests.faults.finite import RewardSoftplus
from tests.faults.masking import Nll
from tests.faults.parts import (
    constant,
    gathered,
    kept,
    pair_mean,
    pair_weights,
    pairs,
    policy,
    row_weights,
    sequence_ratio,
    token_mean,
    token_weights,
)
from tests.faults.reduction import DividedOnce, GlobalMask

SFT = Contract(family="supervised", level="token", normalizer="global", lower_bound=0.0)
DPO = Contract(family="preference", level="pair", normalizer="global", lower_bound=0.0)
PG = Contract(family="policy_gradient", normalizer="global")
KD = Contract(family="distillation", level="token", normalizer="global", lower_bound=0.0)
LOG2 = math.log(2)


class LogLikelihood(LossFunction):
    """The minus is missing."""

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        return token_mean(policy(model_outputs, m), m, batch)


class ChosenIsRejected(LossFunction):
    def compute_loss(self, batch, model_outputs):
        rejected, chosen = pairs(sequence_ratio(batch, model_outputs))
        w = pair_weights(batch, model_outputs["next_token_logprobs"])
        return pair_mean(F.softplus(rejected - chosen), w, batch)


class HalvesNotInterleaved(LossFunction):
    """The first half of the rows is taken for the chosen ones."""

    def compute_loss(self, batch, model_outputs):
        chosen, rejected = sequence_ratio(batch, model_outputs).chunk(2)
        w = pair_weights(batch, model_outputs["next_token_logprobs"])
        return pair_mean(F.softplus(rejected - chosen), w, batch)


class RewardReversed(LossFunction):
    def compute_loss(self, batch, model_outputs):
        chosen, rejected = pairs(model_outputs["rewards"])
        w = pair_weights(batch, model_outputs["rewards"])
        return pair_mean(F.softplus(kept(chosen - rejected, w)), w, batch)


class PolicyGradientReversed(LossFunction):
    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        ratio = (policy(model_outputs, m) - constant(batch, "prev_logprobs", m)).clamp(max=20).exp()
        return token_mean(constant(batch, "advantages", m) * ratio, m, batch)


class MinimumOfClip(LossFunction):
    """min where the surrogate wants max: optimistic instead of pessimistic."""

    def choose(self, a, b):
        return torch.minimum(a, b)

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        rho = (policy(model_outputs, m) - constant(batch, "prev_logprobs", m)).clamp(max=20).exp()
        a = constant(batch, "advantages", m)
        return token_mean(self.choose(-a * rho, -a * rho.clamp(0.8, 1.2)), m, batch)


class MaximumOfClip(MinimumOfClip):
    def choose(self, a, b):
        return torch.maximum(a, b)


class ValueAway(LossFunction):
    """Values pushed away from the returns."""

    def term(self, v, r):
        return -(v - r).square()

    def compute_loss(self, batch, model_outputs):
        m = batch["token_mask"] * row_weights(batch, batch["token_mask"])[:, None]
        v, r = kept(model_outputs["values"], m), kept(batch["returns"].detach(), m)
        n = batch.get("global_valid_toks", m.sum())
        return (self.term(v, r) * m).sum() / n.clamp(min=1)


class ValueTowards(ValueAway):
    def term(self, v, r):
        return (v - r).square()


class OneMinusFocal(LossFunction):
    """One minus the focal sum."""

    def sign(self, total, m):
        return 1 - total

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        lp = gathered(batch, model_outputs, m)
        total = token_mean(-(1 - lp.exp()).square() * lp, m, batch)
        return self.sign(total, m)


class FocalSquare(OneMinusFocal):
    def sign(self, total, m):
        return total


class KlAdded(LossFunction):
    """Reward plus c KL for reward minus c KL."""

    def __init__(self, config=None):
        super().__init__(config)
        self.kl_coef = self.config.get("kl_coef", 0.1)

    def shaped(self, a, kl):
        return a + self.kl_coef * kl

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        lp = policy(model_outputs, m)
        kl = lp.detach() - constant(batch, "reference_policy_logprobs", m)
        return token_mean(-lp * self.shaped(constant(batch, "advantages", m), kl), m, batch)


class KlSubtracted(KlAdded):
    def shaped(self, a, kl):
        return a - self.kl_coef * kl


class EntropyMinimised(LossFunction):
    """The entropy bonus has the sign of a penalty."""

    def __init__(self, config=None):
        super().__init__(config)
        self.entropy_coef = self.config.get("entropy_coef", 0.1)

    def sign(self):
        return 1.0

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        lp = gathered(batch, model_outputs, m)
        p = kept(model_outputs["logits"][:, :-1], m).softmax(-1)
        entropy = -(p * p.clamp(min=1e-30).log()).sum(-1)
        policy_term = token_mean(-lp * constant(batch, "advantages", m), m, batch)
        return policy_term + self.sign() * self.entropy_coef * token_mean(entropy, m, batch)


class EntropyMaximised(EntropyMinimised):
    def sign(self):
        return -1.0


FAULTS = (
    Fault(
        "B132",
        "KL added to the reward",
        "pytorch/rl@96c300322",
        KlAdded,
        KlSubtracted,
        ("direction",),
        Contract(
            family="policy_gradient",
            normalizer="global",
            surrogate_gradient=True,
            options={"kl_coef": Option(values=(0.1, 1.0))},
        ),
        bare=FAILED,
    ),
    Fault(
        "B133",
        "entropy bonus with the wrong sign",
        "DLR-RM/stable-baselines3@8f9aaaeb",
        EntropyMinimised,
        EntropyMaximised,
        ("direction",),
        Contract(
            family="policy_gradient",
            normalizer="global",
            direction={"entropy_coef": -1},
            options={"entropy_coef": Option(values=(0.1, 1.0))},
        ),
        bare=ADVICE,
    ),
    Fault(
        "B134",
        "one minus the focal sum",
        "kornia/kornia@4992bf309",
        OneMinusFocal,
        FocalSquare,
        ("direction", "reduction", "finite"),
        SFT,
    ),
    Fault("X60", "missing minus", "", LogLikelihood, Nll, ("direction", "positivity"), SFT),
    Fault("X61", "chosen and rejected exchanged", "", ChosenIsRejected, DividedOnce, ("direction",), DPO),
    Fault("X62", "halves taken for pairs", "", HalvesNotInterleaved, DividedOnce, ("direction", "symmetry"), DPO),
    Fault(
        "X63",
        "reward margin reversed",
        "",
        RewardReversed,
        RewardSoftplus,
        ("direction",),
        Contract(family="reward", level="pair", normalizer="global"),
    ),
    Fault("X64", "sign of the policy gradient", "", PolicyGradientReversed, GlobalMask, ("direction",), PG),
    Fault(
        "X65",
        "min for max in the clipped surrogate",
        "",
        MinimumOfClip,
        MaximumOfClip,
        ("direction", "positivity"),
        PG,
        bare=FAILED,
    ),
    Fault(
        "X66",
        "values pushed away",
        "",
        ValueAway,
        ValueTowards,
        ("direction", "positivity"),
        Contract(family="value", normalizer="global", lower_bound=0.0),
    ),
)
