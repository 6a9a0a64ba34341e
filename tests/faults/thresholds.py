"""Thresholds: branches of a loss that do not meet."""

from __future__ import annotations

import torch

from loss_reference import Contract, LossFunction
from tests.faults.fault import ADVICE, Fault
from tests.faults.parts import kept, pair_mean, pair_weights, pairs


class SmoothHinge(LossFunction):
    """Of a pair of rewards: 0 beyond the margin, quadratic up to it, linear where the order is wrong."""

    at_zero = 0.5

    def compute_loss(self, batch, model_outputs):
        w = pair_weights(batch, model_outputs["rewards"])
        margin = kept(torch.sub(*pairs(model_outputs["rewards"])), w)
        right = 0.5 * (1 - margin).clamp(min=0).square()
        return pair_mean(torch.where(margin < 0, self.at_zero - margin, right), w, batch)


class BrokenHinge(SmoothHinge):
    """The linear branch is that of the plain hinge."""

    at_zero = 1.0


FAULTS = (
    Fault(
        "X336",
        "a linear branch that does not meet the quadratic one",
        "",
        BrokenHinge,
        SmoothHinge,
        ("gradient_flow",),
        Contract(family="reward", level="pair", lower_bound=0.0),
        bare=ADVICE,
    ),
)
