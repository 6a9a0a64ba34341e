"""VESPO: REINFORCE weighted by a smooth function of the ratio of the whole answer."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from loss_reference.contract import Option
from loss_reference.interface import Batch
from loss_reference.logprobs import token_constant
from loss_reference.policy_gradient.policy import POLICY_GRADIENT, PolicyLoss
from loss_reference.policy_gradient.reinforce import reinforce
from loss_reference.reduction import aggregate_tokens
from loss_reference.registry import register
from loss_reference.settings import Setting
from loss_reference.token_level import refine

__all__ = ["VESPOLoss", "vespo", "vespo_weight"]

LARGEST_LOG_RATIO: Final = 20.0
SMALLEST_LOG_RATIO: Final = math.log(1e-8)


def vespo_weight(log_W: Tensor, k: Tensor | float, lam: Tensor | float) -> Tensor:
    """Return phi(W) = exp(lam + k log W - lam W) = W^k e^(lam (1 - W)): 1 at W = 1, largest at W = k / lam."""
    return torch.exp(lam + k * log_W - lam * log_W.exp())


def vespo(
    lp: Tensor,
    delta: Tensor,
    A: Tensor,
    of_gain: tuple[float, float] = (2.0, 3.0),
    of_loss: tuple[float, float] = (3.0, 2.0),
) -> Tensor:
    """Return -sg(phi(W)) A lp, phi(W) = W^k e^(lam (1 - W)), W = exp(sum_t delta), one term per token.

    Args:
        lp: log-probabilities of the sampled tokens [B, S-1], in nats; alone to receive gradient.
        delta: lp - lp_old [B, S-1], 0 where nothing is trained; each is kept within 20, log W between log 1e-8 and 20.
        A: advantages [B, S-1].
        of_gain: k and lam where A >= 0, at least 0.
        of_loss: k and lam where A < 0, at least 0.
    """
    delta = delta.detach().clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)
    log_W = delta.sum(dim=1, keepdim=True).clamp(SMALLEST_LOG_RATIO, LARGEST_LOG_RATIO)
    k, lam = (torch.full_like(A, loss).masked_fill(A >= 0, gain) for gain, loss in zip(of_gain, of_loss, strict=True))
    return vespo_weight(log_W, k, lam) * reinforce(lp, A)


@register("vespo")
class VESPOLoss(PolicyLoss):
    """VESPO: L = sum m (-sg(phi(W_b)) A lp) / T_g, phi(W) = W^k e^(lam (1 - W)), W_b = exp(sum_t (lp - lp_old)).

    Reads ``next_token_logprobs`` [B, S-1] (or ``logits`` [B, S, V] and ``input_ids`` [B, S]), ``prev_logprobs``,
    ``advantages`` and ``token_mask``, all [B, S]; optional ``sample_mask`` [B], ``global_valid_toks``. W is the ratio of
    the whole answer, a *sum* over its trained tokens: every log-ratio within 20 nats, their sum between log 1e-8 and 20.
    ``sample_mask`` weights the row and does not enter W. Any real result. Only the policy receives gradient:
    dl/dlp = -phi(W) A, which is not the gradient of the value. On policy phi = 1 and it is ``reinforce``.
    TRL also folds an importance weight of the generating policy into W; here it is 1.

    Config: ``k_pos`` (2) and ``lambda_pos`` (3) where A >= 0, ``k_neg`` (3) and ``lambda_neg`` (2) where A < 0, all at
    least 0.

    Raises:
        ValueError: shapes that do not belong together, a token id outside the vocabulary.
        ConfigError: a setting out of range or unknown.

    Source: arXiv 2602.10693; TRL ``loss_type="vespo"``.
    """

    contract = refine(
        POLICY_GRADIENT,
        length_normalized=False,
        surrogate_gradient=True,
        direction={"advantages": +1},  # -lp is at least 0
        options={
            "k_pos": Option(values=(0.0, 1.0, 2.0)),
            "lambda_pos": Option(values=(0.0, 1.0, 3.0)),
            "k_neg": Option(values=(0.0, 1.0, 3.0)),
            "lambda_neg": Option(values=(0.0, 1.0, 2.0)),
        },
    )
    k_pos = Setting(2.0, least=0.0)
    lambda_pos = Setting(3.0, least=0.0)
    k_neg = Setting(3.0, least=0.0)
    lambda_neg = Setting(2.0, least=0.0)

    def policy_terms(self, lp: Tensor, m: Tensor, batch: Batch) -> Tensor:
        A = token_constant(batch, "advantages", m)
        delta = lp - token_constant(batch, "prev_logprobs", m)
        return vespo(lp, delta, A, (self.k_pos, self.lambda_pos), (self.k_neg, self.lambda_neg))

    def reduce(self, terms: Tensor, weights: Tensor, batch: Batch) -> Tensor:
        return aggregate_tokens(terms, weights, batch, "token_mean")
