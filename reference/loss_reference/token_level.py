"""What losses made of per-token terms share: how the terms are aggregated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final

from torch import Tensor

from loss_reference.contract import Contract, Option
from loss_reference.interface import Batch, LossFunction
from loss_reference.reduction import AGGREGATIONS, aggregate_tokens
from loss_reference.relevance import where
from loss_reference.settings import ConfigError, Setting

__all__ = ["AGGREGATION_OPTIONS", "TokenLevelLoss", "refine"]

AGGREGATION_OPTIONS: Final[dict[str, Option]] = {
    "aggregation": Option(values=AGGREGATIONS),
    "max_length": Option(values=(4.0, 16.0)),
}
FACTS: Final[dict[str, dict[str, Any]]] = {
    "token_mean": {"level": "token", "length_normalized": True},
    "seq_mean_token_mean": {"level": "sequence", "length_normalized": True},
    "seq_mean_token_sum": {"level": "sequence", "length_normalized": False},
    "fixed": {"level": "sequence", "length_normalized": False},
}


def refine(contract: Contract, **facts: Any) -> Contract:
    """Return ``contract`` with ``facts`` replaced; what was left undeclared stays undeclared."""
    declared = {fact.name: getattr(contract, fact.name) for fact in fields(contract) if contract.declares(fact.name)}
    return Contract(**{**declared, **facts})


class TokenLevelLoss(LossFunction):
    """A loss of per-token terms l [B, S-1] with weights m: ``self.reduce(l, m, batch)`` gives the scalar.

    Config: ``aggregation`` (one of ``AGGREGATIONS``, see ``aggregate_tokens``); ``max_length`` (above 0, the divisor L of
    ``"fixed"``, which needs it; refused beside the others, which do not read it).

    Raises:
        ConfigError: ``aggregation="fixed"`` without ``max_length``.
    """

    aggregation = Setting("token_mean", choices=AGGREGATIONS)
    max_length = Setting[float | None](None, above=0.0, optional=True, read_when=where("aggregation", "fixed"))

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        if self.aggregation == "fixed" and self.max_length is None:
            raise ConfigError(f"{type(self).__name__}: aggregation='fixed' needs max_length, the number it divides by")
        if self.aggregation != type(self).aggregation.default:
            self.contract = refine(self.contract, **FACTS[self.aggregation])

    def reduce(self, terms: Tensor, weights: Tensor, batch: Batch) -> Tensor:
        """Return the aggregate of per-token terms [B, S-1]."""
        return aggregate_tokens(terms, weights, batch, self.aggregation, self.max_length)
