"""What policy-gradient losses share: terms of lp and the advantages, one per token, and how they are reduced."""

from __future__ import annotations

from typing import Final

from torch import Tensor

from loss_reference.contract import Contract
from loss_reference.interface import Batch, LossFunction, Outputs
from loss_reference.logprobs import trained_logprobs

__all__ = ["POLICY_GRADIENT", "PolicyLoss"]

POLICY_GRADIENT: Final = Contract(
    family="policy_gradient",
    level="token",
    normalizer="global",
    length_normalized=True,
    lower_bound=float("-inf"),
    upper_bound=float("inf"),
)


class PolicyLoss(LossFunction):
    """A loss of per-token terms: ``self.reduce(self.policy_terms(lp, m, batch), m, batch)``."""

    contract = POLICY_GRADIENT

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        lp, m = trained_logprobs(batch, model_outputs)
        return self.reduce(self.policy_terms(lp, m, batch), m, batch)

    def policy_terms(self, lp: Tensor, m: Tensor, batch: Batch) -> Tensor:
        """Return the term of every token [B, S-1] from lp and its weights m."""
        raise NotImplementedError(f"{type(self).__name__} must define policy_terms(self, lp, m, batch)")

    def reduce(self, terms: Tensor, weights: Tensor, batch: Batch) -> Tensor:
        """Return the scalar that per-token terms [B, S-1] add up to."""
        raise NotImplementedError(f"{type(self).__name__} must define reduce(self, terms, weights, batch)")
