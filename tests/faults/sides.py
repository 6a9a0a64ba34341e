"""Sides: one of two branches has the sign of the other."""

from __future__ import annotations

import torch
from torch import nn

from loss_reference import Contract, Field, LossFunction
from tests.faults.fault import ADVICE, Fault
from tests.faults.parts import kept, row_mean, row_weights, sequence_ratio

REGRESSION = {"input": Field("values", "B", trainable=True), "target": Field("values", "B", trainable=False)}


class LabelledAnswers(LossFunction):
    """sigma(-x) for a desirable answer, sigma(x) for another."""

    def undesirable(self, x):
        return torch.sigmoid(x)

    def compute_loss(self, batch, model_outputs):
        x = 0.1 * sequence_ratio(batch, model_outputs)
        terms = torch.where(batch["labels"] != 0, torch.sigmoid(-x), self.undesirable(x))
        return row_mean(terms, row_weights(batch, x), batch)


class OneSignForBoth(LabelledAnswers):
    def undesirable(self, x):
        return torch.sigmoid(-x)


class Quantile(nn.Module):
    """Pinball loss, by its two branches."""

    def below(self, error):
        return 0.1 * -error

    def forward(self, input, target):
        error = kept(target - input, torch.ones_like(input))
        return torch.where(error >= 0, 0.9 * error, self.below(error)).mean()


class QuantileOfOneSign(Quantile):
    def below(self, error):
        return 0.1 * error


FAULTS = (
    Fault(
        "X413",
        "undesirable answers are made likelier, as the desirable ones are",
        "",
        OneSignForBoth,
        LabelledAnswers,
        ("direction",),
        Contract(family="preference", level="sequence", normalizer="global", lower_bound=0.0),
        bare=ADVICE,
    ),
    Fault(
        "X414",
        "the branch above the target keeps the sign of its error",
        "scikit-learn/scikit-learn#6076",
        QuantileOfOneSign,
        Quantile,
        ("direction",),
        Contract(family="supervised", fields=REGRESSION),
        bare=ADVICE,
    ),
)
