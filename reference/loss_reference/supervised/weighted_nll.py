"""Negative log-likelihood with a weight for every token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from torch import Tensor

from loss_reference.contract import Field, Option
from loss_reference.interface import Batch, Outputs
from loss_reference.logprobs import token_constant, trained_logprobs
from loss_reference.reduction import keep_active, mean_of_terms
from loss_reference.registry import register
from loss_reference.settings import ConfigError, Setting
from loss_reference.supervised.contract import SUPERVISED
from loss_reference.token_level import AGGREGATION_OPTIONS, TokenLevelLoss, refine

__all__ = ["WeightedNLLLoss", "weighted_nll"]

UNREAD: Final = Option(inert=True)


def weighted_nll(lp: Tensor, w: Tensor) -> Tensor:
    """Return -w lp, one term per token; exactly 0 where w = 0, whatever lp is there.

    Args:
        lp: log-probabilities of the targets [...], in nats.
        w: their weights [...], constant.
    """
    return -w * keep_active(lp, w)


@register("weighted_nll")
class WeightedNLLLoss(TokenLevelLoss):
    """Weighted NLL: L = -sum m w lp / D with a weight w for every token.

    Reads ``next_token_logprobs`` [B, S-1] (or ``logits`` [B, S, V] and ``input_ids`` [B, S]), ``token_weights`` w and
    ``token_mask`` [B, S]; optional ``sample_mask`` [B], ``global_valid_toks``, ``global_valid_seqs``. Result in nats, at
    least 0 for weights of at least 0; ``nll`` for weights of 1. The model receives gradient, the weights do not. A token
    of weight 0 is absent, whatever its log-probability.

    Config: ``divisor`` D (``"tokens"``: that of the aggregation, so that twice the weights give twice the loss;
    ``"weights"``: sum m w over this batch, at least 1, so that a common factor cancels, as class weights do in PyTorch;
    only with ``"token_mean"``); ``aggregation`` (``"token_mean"``); ``max_length`` (above 0, needed by ``"fixed"``).
    With ``"weights"`` the losses of microbatches do not add up.

    Raises:
        KeyError: no ``token_weights``.
        ValueError: shapes that do not belong together, a token id outside the vocabulary.
        ConfigError: a setting out of range or unknown, ``"fixed"`` without ``max_length``, ``"weights"`` with another
            aggregation than ``"token_mean"``.

    Source: weighted maximum likelihood, such as importance weights or class weights.
    """

    contract = refine(
        SUPERVISED,
        direction={"next_token_logprobs": -1},
        options={**AGGREGATION_OPTIONS, "divisor": Option(values=("tokens", "weights"))},
        fields={"token_weights": Field("weights", "B S")},
    )
    divisor = Setting("tokens", choices=("tokens", "weights"))

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        if self.divisor == "weights":
            if self.aggregation != "token_mean":
                raise ConfigError(
                    f"{type(self).__name__}: divisor='weights' is a mean over tokens; "
                    f"expected aggregation='token_mean', not {self.aggregation!r}"
                )
            options = {**self.contract.options, "aggregation": Option(values=("token_mean",)), "max_length": UNREAD}
            self.contract = refine(self.contract, normalizer="local", options=options)

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        lp, m = trained_logprobs(batch, model_outputs)
        w = token_constant(batch, "token_weights", m)
        terms = weighted_nll(lp, w)
        return mean_of_terms(terms, m, (m * w).sum()) if self.divisor == "weights" else self.reduce(terms, m, batch)
