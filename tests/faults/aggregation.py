"""Aggregations: modes that are not forwarded, coincide, or disagree."""

from __future__ import annotations

from loss_reference import Contract, LossFunction, Option
from tests.faults.fault import UNSEEN, Fault
from tests.faults.parts import (
    constant,
    policy,
    row_mean,
    row_weights,
    token_mean,
    token_weights,
)

AGGREGATIONS = Contract(
    family="policy_gradient",
    normalizer="global",
    options={"aggregation": Option(values=("token_mean", "seq_mean", "seq_sum"))},
)


class Aggregated(LossFunction):
    """Policy gradient, ``aggregation`` = token_mean, seq_mean or seq_sum."""

    def __init__(self, config=None):
        super().__init__(config)
        self.aggregation = self.config.get("aggregation", "token_mean")

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        terms = -policy(model_outputs, m) * constant(batch, "advantages", m)
        return self.aggregate(terms, m, batch)

    def aggregate(self, terms, m, batch):
        if self.aggregation == "token_mean":
            return token_mean(terms, m, batch)
        sums = (terms * m).sum(1)
        if self.aggregation == "seq_mean":
            sums = sums / m.sum(1).clamp(min=1)
        return row_mean(sums, row_weights(batch, sums), batch)


class NotForwarded(Aggregated):
    def aggregate(self, terms, m, batch):
        return token_mean(terms, m, batch)


class AlsoDividedByLength(Aggregated):
    def aggregate(self, terms, m, batch):
        if self.aggregation == "token_mean":
            return token_mean(terms, m, batch)
        sums = (terms * m).sum(1) / m.sum(1).clamp(min=1)
        return row_mean(sums, row_weights(batch, sums), batch)


class Reduced(LossFunction):
    """Squared error of rewards with ``reduction``."""

    def total(self, terms):
        return terms.sum()

    def compute_loss(self, batch, model_outputs):
        terms = (model_outputs["rewards"] - batch["rewards"].detach()).square()
        reduction = self.config.get("reduction", "mean")
        if reduction == "none":
            return terms
        return terms.mean() if reduction == "mean" else self.total(terms)


class SumDividesToo(Reduced):
    def total(self, terms):
        return terms.sum() / len(terms)


FAULTS = (
    Fault(
        "B155",
        "aggregation not forwarded",
        "volcengine/verl@3e3d9372a",
        NotForwarded,
        Aggregated,
        ("options",),
        AGGREGATIONS,
        bare=UNSEEN,
    ),
    Fault(
        "B156",
        "seq-mean-token-sum divides by the length too",
        "volcengine/verl@4d722b176",
        AlsoDividedByLength,
        Aggregated,
        ("options",),
        AGGREGATIONS,
        bare=UNSEEN,
    ),
    Fault(
        "X12",
        "reduction='sum' divides as well",
        "",
        SumDividesToo,
        Reduced,
        ("reduction",),
        Contract(level="sample"),
    ),
)
