"""Negative log-likelihood with a weight or an extra term made of the probability of the target itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from loss_reference.contract import Option
from loss_reference.interface import Batch, Outputs
from loss_reference.logprobs import trained_logprobs
from loss_reference.reduction import keep_active
from loss_reference.registry import register
from loss_reference.relevance import unless
from loss_reference.settings import Setting
from loss_reference.supervised.contract import SUPERVISED
from loss_reference.token_level import AGGREGATION_OPTIONS, TokenLevelLoss, refine

__all__ = ["DFTLoss", "FocalCELoss", "Poly1CELoss", "dft", "focal_ce", "poly1_ce"]


def focal_ce(lp: Tensor, gamma: float = 2.0, alpha: float = 1.0, detach_weight: bool = False) -> Tensor:
    """Return -alpha (1 - p)^gamma log p with p = exp(lp), one term per token.

    Args:
        lp: log-probabilities of the targets, at most 0.
        gamma: at least 0.
        alpha: above 0.
        detach_weight: whether the weight (1 - p)^gamma is constant.
    """
    if gamma == 0:
        return -alpha * lp
    # At p = 1 the slope of the weight alone is infinite for gamma < 1; that of the product is 0.
    uncertain = lp < -torch.finfo(lp.dtype).tiny
    lp = torch.where(uncertain, lp, -1.0)
    # At p = 0 the loss is inf, its slope -alpha: p is 0 in float64 long before -1000, below which the weight has no slope.
    weight = (-torch.expm1(lp.clamp(min=-1e3))) ** gamma
    return torch.where(uncertain, -alpha * (weight.detach() if detach_weight else weight) * lp, 0.0)


def poly1_ce(lp: Tensor, epsilon: float = 2.0) -> Tensor:
    """Return -lp + epsilon (1 - p) with p = exp(lp), one term per token; epsilon at least -1."""
    return -lp - epsilon * torch.expm1(lp)


def dft(lp: Tensor) -> Tensor:
    """Return -p lp with the weight p = exp(lp) constant, one term per token; 0 at p = 0."""
    p = lp.detach().exp()
    return -p * keep_active(lp, p)


@register("focal_ce")
class FocalCELoss(TokenLevelLoss):
    """Focal loss over the vocabulary: l = -alpha (1 - p)^gamma log p, p the probability of the next token.

    Reads ``next_token_logprobs`` [B, S-1] (or ``logits`` [B, S, V] and ``input_ids`` [B, S]) and ``token_mask`` [B, S];
    optional ``sample_mask`` [B], ``global_valid_toks``, ``global_valid_seqs``. Result in nats per token, from 0 to alpha
    times ``nll``; alpha 2^-gamma log 2 at p = 1/2; ``nll`` for gamma = 0 and alpha = 1. The model receives gradient, also
    through the weight (as in optax) unless it is detached: dl/dlp = alpha (1 - p)^gamma [gamma p lp / (1 - p) - 1],
    0 at p = 1.

    Config: ``gamma`` (2, at least 0); ``alpha`` (1, above 0, one number for all tokens); ``detach_weight`` (False; True:
    dl/dlp = -alpha (1 - p)^gamma); ``aggregation`` (``"token_mean"``); ``max_length`` (above 0, needed by ``"fixed"``).

    Raises:
        ValueError: shapes that do not belong together, a token id outside the vocabulary.
        ConfigError: a setting out of range or unknown, ``"fixed"`` without ``max_length``.

    Source: arXiv 1708.02002, eq. 5, with the softmax in the place of the sigmoid.
    """

    contract = refine(
        SUPERVISED,
        direction={"next_token_logprobs": -1, "alpha": +1, "gamma": -1},
        options={
            **AGGREGATION_OPTIONS,
            "gamma": Option(values=(0.0, 0.5, 2.0)),
            "alpha": Option(values=(0.25, 1.0)),
            "detach_weight": Option(values=(False, True)),
        },
    )
    gamma = Setting(2.0, least=0.0)
    alpha = Setting(1.0, above=0.0)
    detach_weight = Setting(False, read_when=unless("gamma", 0))

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        if self.detach_weight:
            self.contract = refine(self.contract, surrogate_gradient=True)
        if self.alpha == 1:
            gamma = Option(values=(0.0, 0.5, 2.0), reduces_to={0.0: "nll"})
            self.contract = refine(self.contract, options={**self.contract.options, "gamma": gamma})

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        lp, m = trained_logprobs(batch, model_outputs)
        return self.reduce(focal_ce(lp, self.gamma, self.alpha, self.detach_weight), m, batch)


@register("poly1_ce")
class Poly1CELoss(TokenLevelLoss):
    """Poly-1: l = -log p + epsilon (1 - p), p the probability of the next token.

    Reads ``next_token_logprobs`` [B, S-1] (or ``logits`` [B, S, V] and ``input_ids`` [B, S]) and ``token_mask`` [B, S];
    optional ``sample_mask`` [B], ``global_valid_toks``, ``global_valid_seqs``. Result at least 0, reached at p = 1;
    ``nll`` for epsilon = 0. The model receives gradient: dl/dlp = -1 - epsilon p.

    Config: ``epsilon`` (2, at least -1, below which the minimum leaves p = 1; the default of optax); ``aggregation``
    (``"token_mean"``); ``max_length`` (above 0, needed by ``"fixed"``).

    Raises:
        ValueError: shapes that do not belong together, a token id outside the vocabulary.
        ConfigError: a setting out of range or unknown, ``"fixed"`` without ``max_length``.

    Source: arXiv 2204.12511.
    """

    contract = refine(
        SUPERVISED,
        direction={"next_token_logprobs": -1, "epsilon": +1},
        options={**AGGREGATION_OPTIONS, "epsilon": Option(values=(-1.0, 0.0, 2.0), reduces_to={0.0: "nll"})},
    )
    epsilon = Setting(2.0, least=-1.0)

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        lp, m = trained_logprobs(batch, model_outputs)
        return self.reduce(poly1_ce(lp, self.epsilon), m, batch)


@register("dft")
class DFTLoss(TokenLevelLoss):
    """Dynamic fine-tuning: l = -p log p with the weight p constant, p the probability of the next token.

    Reads ``next_token_logprobs`` [B, S-1] (or ``logits`` [B, S, V] and ``input_ids`` [B, S]) and ``token_mask`` [B, S];
    optional ``sample_mask`` [B], ``global_valid_toks``, ``global_valid_seqs``. Each term lies in [0, 1 / e], 0 at p = 0
    and p = 1. The model receives the gradient dl/dlp = -p, which is that of -p and not of the value: p times that of
    ``nll``, so improbable tokens hardly train. The value may rise while p does.

    Config: ``aggregation`` (``"token_mean"``); ``max_length`` (above 0, needed by ``"fixed"``).

    Raises:
        ValueError: shapes that do not belong together, a token id outside the vocabulary.
        ConfigError: a setting out of range or unknown, ``"fixed"`` without ``max_length``.

    Source: arXiv 2508.05629; TRL ``dft``, Liger ``use_token_scaling``.
    """

    contract = refine(
        SUPERVISED,
        upper_bound=math.exp(-1.0),
        surrogate_gradient=True,
        options=AGGREGATION_OPTIONS,
    )
    strict_config = True

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        if not self.contract.length_normalized:  # sums over tokens
            self.contract = refine(self.contract, upper_bound=math.inf)

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        lp, m = trained_logprobs(batch, model_outputs)
        return self.reduce(dft(lp), m, batch)
