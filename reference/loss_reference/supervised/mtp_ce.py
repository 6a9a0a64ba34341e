"""Multi-token prediction: several heads, each predicting a token further ahead."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from loss_reference.contract import Field
from loss_reference.interface import Batch, LossFunction, Outputs
from loss_reference.reduction import global_count, mean_of_terms, token_weights
from loss_reference.registry import register
from loss_reference.sampled_logprob import sampled_logprob
from loss_reference.settings import ConfigError, Setting
from loss_reference.shapes import require_shape
from loss_reference.supervised.contract import SUPERVISED
from loss_reference.supervised.next_token import next_tokens
from loss_reference.token_level import refine

__all__ = ["MTPCELoss"]


@register("mtp_ce")
class MTPCELoss(LossFunction):
    """Multi-token prediction: L = sum_d lambda_d sum m_d nll_d / T_g; head d = 1, ..., H predicts the token d ahead.

    Reads ``mtp_logits`` [B, S, H, V] of the model outputs, whose entry (t, d-1) scores token t + d; ``input_ids`` and
    ``token_mask`` [B, S]; optional ``sample_mask`` [B], ``global_valid_toks``. A term of head d weighs the mask of token
    t + d; what would lie beyond the row is no term. Every head is divided by the same T_g, or by the local count of
    trained tokens. Result in nats per token, at least 0; log V per unit of weight for uniform logits, less what lies
    beyond the rows; ``nll`` for one head of weight 1. The model receives gradient.

    Config: ``head_weights`` lambda (None: 1 for every head; a list of H numbers, at least 0).

    Raises:
        KeyError: no ``mtp_logits``.
        ValueError: shapes that do not belong together, another number of weights than heads, a token id outside the
            vocabulary.
        ConfigError: ``head_weights`` that are not a list of numbers of at least 0, or an unknown setting.

    Source: arXiv 2404.19737, with a weight for every head.
    """

    contract = refine(
        SUPERVISED,
        length_normalized=False,
        fields={"mtp_logits": Field("logits", "B S H V", trainable=True, speaks_of="later")},
    )
    head_weights = Setting[Sequence[float] | None](None, check=False)

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        given = self.head_weights
        if given is not None and not (isinstance(given, list | tuple) and given and all(map(_is_weight, given))):
            raise ConfigError(
                f"{type(self).__name__}: head_weights={given!r}; expected a list of numbers, one per head, at least 0"
            )

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        logits = model_outputs["mtp_logits"]
        require_shape("mtp_logits", logits, (*batch["token_mask"].shape, "H", "V"), "V scores per token and head")
        H, V = logits.shape[2:]
        lambdas = [1.0] * H if self.head_weights is None else list(self.head_weights)
        if len(lambdas) != H:
            raise ValueError(f"head_weights has {len(lambdas)} entries; mtp_logits has {H} heads")
        m = token_weights(batch, logits[:, 1:, 0, 0])
        y = next_tokens(batch, m, V)
        T = global_count(batch, "global_valid_toks")
        T = m.sum() if T is None else T
        heads = []
        for d in range(1, H + 1):  # m and y start at token 1, and head d at token d
            m_d, y_d = lambdas[d - 1] * m[:, d - 1 :], y[:, d - 1 :]
            lp_d = sampled_logprob(logits[:, : m_d.shape[1], d - 1], y_d, m_d != 0)
            heads.append(mean_of_terms(-lp_d, m_d, T))
        return torch.stack(heads).sum()


def _is_weight(x: object) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) and x >= 0
