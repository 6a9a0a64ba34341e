"""Clips: where they are, on which side, and who counts them."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from loss_reference import Contract, LossFunction, Option
from tests.faults.fault import ADVICE, Fault
from tests.faults.parts import constant, kept, policy, token_mean, token_weights

PG = Contract(family="policy_gradient", level="token", normalizer="global")


class OneRange(LossFunction):
    """PPO with one range for both sides."""

    def __init__(self, config=None):
        super().__init__(config)
        self.clip_eps = self.config.get("clip_eps", 0.2)

    def bounds(self):
        return 1 - self.clip_eps, 1 + self.clip_eps

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        rho = (policy(model_outputs, m) - constant(batch, "prev_logprobs", m)).clamp(max=20).exp()
        a = constant(batch, "advantages", m)
        return token_mean(torch.maximum(-a * rho, -a * rho.clamp(*self.bounds())), m, batch)


class RangeForTheBound(OneRange):
    def bounds(self):
        return self.clip_eps, 1 + self.clip_eps


class TwoRanges(OneRange):
    """PPO with a range for each side."""

    def __init__(self, config=None):
        super().__init__(config)
        self.clip_ratio_low = self.config.get("clip_ratio_low", 0.2)
        self.clip_ratio_high = self.config.get("clip_ratio_high", 0.28)

    def bounds(self):
        return 1 - self.clip_ratio_low, 1 + self.clip_ratio_high


class RangesExchanged(TwoRanges):
    def bounds(self):
        return 1 - self.clip_ratio_high, 1 + self.clip_ratio_low


class HuberCritic(LossFunction):
    def term(self, error):
        return F.smooth_l1_loss(error, torch.zeros_like(error), reduction="none")

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        error = kept(model_outputs["values"][:, 1:], m) - constant(batch, "returns", m)
        return token_mean(self.term(error), m, batch)


class ClippedError(HuberCritic):
    """A large error gets no gradient at all."""

    def term(self, error):
        return 0.5 * error.clamp(-1, 1).square()


class CountedValueClip(LossFunction):
    """Clipped value loss with the share of values that its clip stops."""

    def __init__(self, config=None):
        super().__init__(config)
        self.cliprange = self.config.get("cliprange", 0.2)

    def outside(self, step, clipped):
        return step.abs() > self.cliprange

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        old, returns = constant(batch, "values", m), constant(batch, "returns", m)
        v = kept(model_outputs["values"][:, 1:], m)
        step = v - old
        clipped = step.clamp(-self.cliprange, self.cliprange)
        terms = 0.5 * torch.maximum((v - returns).square(), (old + clipped - returns).square())
        outside = self.outside(step.detach(), clipped.detach()).to(m)
        return token_mean(terms, m, batch), {"value_clip_ratio": token_mean(outside, m, batch)}


class ClippedIsCounted(CountedValueClip):
    def outside(self, step, clipped):
        return clipped.abs() > self.cliprange


FAULTS = (
    Fault(
        "X440",
        "the ratio is clipped to [eps, 1 + eps]",
        "ChenmienTan/RL2#21",
        RangeForTheBound,
        OneRange,
        ("direction",),
        PG,
    ),
    Fault(
        "X441",
        "the lower and the upper range are exchanged",
        "",
        RangesExchanged,
        TwoRanges,
        ("direction",),
        Contract(
            family="policy_gradient",
            level="token",
            normalizer="global",
            options={"clip_ratio_low": Option(values=(0.1, 0.2)), "clip_ratio_high": Option(values=(0.2, 0.28))},
        ),
    ),
    Fault(
        "X442",
        "the error is clipped before it is squared",
        "devsisters/DQN-tensorflow#16",
        ClippedError,
        HuberCritic,
        ("gradient_flow",),
        Contract(family="value", level="token", normalizer="global", lower_bound=0.0),
        bare=ADVICE,
    ),
    Fault(
        "X443",
        "the clip fraction asks whether what is already clipped exceeds the range",
        "RLinf/RLinf#1529",
        ClippedIsCounted,
        CountedValueClip,
        ("metrics",),
        Contract(family="value", level="token", normalizer="global"),
        bare=ADVICE,
        advice=True,
    ),
)
