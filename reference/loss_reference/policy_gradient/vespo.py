"""VESPO: REINFORCE weighted by a smooth function of the ratio of the whole answer."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from loss_reference.contract import Option
from loss_reference.interface import Batch
from loss_reference.logprobs import token_constant
from loss_reference.policy_gradient.corrected import generation_log_ratio
from loss_reference.policy_gradient.policy import POLICY_GRADIENT, PolicyLoss
from loss_reference.policy_gradient.reinforce import reinforce
from loss_reference.reduction import aggregate_tokens
from loss_reference.registry import register
from loss_reference.relevance import unless
from loss_reference.settings import Setting
from loss_reference.token_level import refine

__all__ = ["VESPOLoss", "folded_log_ratio", "vespo", "vespo_weight"]

LARGEST_LOG_RATIO: Final = 20.0
SMALLEST_LOG_RATIO: Final = math.log(1e-8)
IMPORTANCE: Final = ("none", "token_truncate", "token_mask")


def folded_log_ratio(x: Tensor, is_max: float = 3.0, cut_off: bool = False) -> Tensor:
    """Return log v, v = min(e^x, is_max); with ``cut_off`` v = e^x up to is_max and 1e-8 beyond; one number per token.

    Args:
        x: lp_old - lp_gen [B, S-1], in nats, 0 where nothing is trained; constant.
        is_max: above 0.
        cut_off: whether a ratio that is too high counts as next to none.
    """
    highest = math.log(is_max)
    v = x.masked_fill(x > highest, -torch.inf) if cut_off else x.clamp(max=highest)
    return v.clamp(SMALLEST_LOG_RATIO, LARGEST_LOG_RATIO)


def vespo_weight(log_W: Tensor, k: Tensor | float, lam: Tensor | float) -> Tensor:
    """Return phi(W) = exp(lam + k log W - lam W) = W^k e^(lam (1 - W)): 1 at W = 1, largest at W = k / lam."""
    return torch.exp(lam + k * log_W - lam * log_W.exp())


def vespo(
    lp: Tensor,
    delta: Tensor,
    A: Tensor,
    of_gain: tuple[float, float] = (2.0, 3.0),
    of_loss: tuple[float, float] = (3.0, 2.0),
    log_v: Tensor | float = 0.0,
) -> Tensor:
    """Return -sg(phi(W)) A lp, phi(W) = W^k e^(lam (1 - W)), W = exp(sum_t (delta + log v)), one term per token.

    Args:
        lp: log-probabilities of the sampled tokens [B, S-1], in nats; alone to receive gradient.
        delta: lp - lp_old [B, S-1], 0 where nothing is trained; each is kept within 20, log W between log 1e-8 and 20.
        A: advantages [B, S-1].
        of_gain: k and lam where A >= 0, at least 0.
        of_loss: k and lam where A < 0, at least 0.
        log_v: logarithm of an importance weight of the token [B, S-1], see ``folded_log_ratio``; 0 for none.
    """
    delta = delta.detach().clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)
    log_W = (delta + log_v).sum(dim=1, keepdim=True).clamp(SMALLEST_LOG_RATIO, LARGEST_LOG_RATIO)
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

    Config: ``k_pos`` (2) and ``lambda_pos`` (3) where A >= 0, ``k_neg`` (3) and ``lambda_neg`` (2) where A < 0, all at
    least 0; ``importance_sampling`` (``"none"``: W as above; ``"token_truncate"`` and ``"token_mask"``, TRL
    ``vllm_importance_sampling_mode``: W_b = exp(sum_t (lp - lp_old + log v)), v the ratio e^x of the old policy to the one
    that drew the token, x = lp_old - lp_gen of ``generation_logprobs`` [B, S]. Too high a ratio counts as ``is_max`` or, in
    ``"token_mask"``, as 1e-8, which is also the least v that counts); ``is_max`` (3, above 0: TRL
    ``vllm_importance_sampling_clip_max``, read unless ``"none"``). Where lp_gen = lp_old and is_max >= 1 it is ``"none"``.

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
            "importance_sampling": Option(values=IMPORTANCE),
            "is_max": Option(values=(1.05, 3.0, 5.0)),
        },
    )
    k_pos = Setting(2.0, least=0.0)
    lambda_pos = Setting(3.0, least=0.0)
    k_neg = Setting(3.0, least=0.0)
    lambda_neg = Setting(2.0, least=0.0)
    importance_sampling = Setting("none", choices=IMPORTANCE)
    is_max = Setting(3.0, above=0.0, read_when=unless("importance_sampling", "none"))

    def policy_terms(self, lp: Tensor, m: Tensor, batch: Batch) -> Tensor:
        A = token_constant(batch, "advantages", m)
        delta = lp - token_constant(batch, "prev_logprobs", m)
        of_gain, of_loss = (self.k_pos, self.lambda_pos), (self.k_neg, self.lambda_neg)
        if self.importance_sampling == "none":
            return vespo(lp, delta, A, of_gain, of_loss)
        cut_off = self.importance_sampling == "token_mask"
        log_v = folded_log_ratio(generation_log_ratio(m, batch), self.is_max, cut_off)
        return vespo(lp, delta, A, of_gain, of_loss, log_v)

    def reduce(self, terms: Tensor, weights: Tensor, batch: Batch) -> Tensor:
        return aggregate_tokens(terms, weights, batch, "token_mean")
