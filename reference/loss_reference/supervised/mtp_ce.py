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

__all__ = ["MTPCELoss", "mtp_ce"]


def mtp_ce(z: Tensor, y: Tensor, active: Tensor, d: int) -> Tensor:
    """Return -log softmax(z_td)[y_(t+d)] [B, S-d] in nats, one term per token that head d predicts; 0 if not active.

    Args:
        z: scores [B, S, H, V]; entry (t, d-1) is head d at token t.
        y: token ids [B, S-1], from token 1 on.
        active: bool [B, S-1], from token 1 on: whether a token is predicted at all.
        d: how many tokens ahead the head predicts, from 1 to H.
    """
    y, active = y[:, d - 1 :], active[:, d - 1 :]
    return -sampled_logprob(z[:, : y.shape[1], d - 1], y, active)


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
        lambdas = self.lambdas(logits.shape[2])
        m = token_weights(batch, logits[:, 1:, 0, 0])
        y = next_tokens(batch, m, logits.shape[3])
        T = global_count(batch, "global_valid_toks")
        T = m.sum() if T is None else T
        heads = []
        for d, w in enumerate(
            (x * m for x in lambdas), start=1
        ):  # w starts at token 1, and head d predicts from token d
            heads.append(mean_of_terms(mtp_ce(logits, y, w != 0, d), w[:, d - 1 :], T))
        return torch.stack(heads).sum()

    def lambdas(self, H: int) -> list[float]:
        """Return the weight of each of ``H`` heads.

        Raises:
            ValueError: ``head_weights`` are for another number of heads.
        """
        weights = [1.0] * H if self.head_weights is None else list(self.head_weights)
        if len(weights) != H:
            raise ValueError(f"head_weights has {len(weights)} entries; mtp_logits has {H} heads")
        return weights


def _is_weight(x: object) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) and x >= 0
