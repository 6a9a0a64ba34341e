"""Proximal policy optimisation with a clipped ratio."""

from __future__ import annotations

import torch
from torch import Tensor

from loss_reference.contract import Option
from loss_reference.interface import Batch
from loss_reference.logprobs import token_constant
from loss_reference.policy_gradient.policy import POLICY_GRADIENT, PolicyLoss
from loss_reference.policy_gradient.ratio import LOG_RATIO_CLAMP, probability_ratio
from loss_reference.registry import register
from loss_reference.settings import Setting
from loss_reference.token_level import AGGREGATION_OPTIONS, TokenLevelLoss, refine

__all__ = ["ClippedPolicyLoss", "PPOClipLoss", "ppo_clip"]


def ppo_clip(
    rho: Tensor, A: Tensor, clip_min: float = 0.2, clip_max: float = 0.2, clip_c: float | None = None
) -> Tensor:
    """Return max(-A rho, -A clip(rho, 1 - clip_min, 1 + clip_max)), one term per token.

    Where A < 0 and ``clip_c`` is given the term is at most -A clip_c (dual clip). A ratio exactly on a bound has the full
    gradient, one beyond it none.

    Args:
        rho: probability ratio pi / pi_old, above 0.
        A: advantage, any shape that ``rho`` has.
        clip_min, clip_max: how far the ratio may fall below and rise above 1, at least 0.
        clip_c: bound of the ratio for negative advantages, above 1.
    """
    term = torch.maximum(-A * rho, -A * rho.clamp(1 - clip_min, 1 + clip_max))
    # A clamp, since minimum() would halve the gradient on the bound.
    return term if clip_c is None else torch.where(A < 0, term.clamp(max=-A * clip_c), term)


class ClippedPolicyLoss(PolicyLoss):
    """The clipped terms of PPO; a subclass says how they are reduced.

    Config: ``ratio_clip_min`` and ``ratio_clip_max`` (0.2, at least 0), ``ratio_clip_c`` (None; above 1),
    ``log_ratio_clamp`` (None; above 0: lp - lp_old is kept within it, either way, before the exponential).
    """

    contract = refine(
        POLICY_GRADIENT,
        direction={"advantages": -1},
        options={
            "ratio_clip_min": Option(values=(0.0, 0.2, 1.0)),
            "ratio_clip_max": Option(values=(0.0, 0.2, 0.28)),
            "ratio_clip_c": Option(values=(None, 1.5, 3.0)),
            "log_ratio_clamp": LOG_RATIO_CLAMP,
        },
    )
    ratio_clip_min = Setting(0.2, least=0.0)
    ratio_clip_max = Setting(0.2, least=0.0)
    ratio_clip_c = Setting[float | None](None, above=1.0, optional=True)
    log_ratio_clamp = Setting[float | None](None, above=0.0, optional=True)

    def policy_terms(self, lp: Tensor, m: Tensor, batch: Batch) -> Tensor:
        """Return the clipped term of every token [B, S-1] from lp and its weights m."""
        rho, A = self.ratio_and_advantages(lp, m, batch)
        return ppo_clip(rho, A, self.ratio_clip_min, self.ratio_clip_max, self.ratio_clip_c)

    def ratio_and_advantages(self, lp: Tensor, m: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return (rho, A) of every token, both [B, S-1], from lp and its weights m; 1 and 0 where m is 0."""
        rho = probability_ratio(lp, token_constant(batch, "prev_logprobs", m), self.log_ratio_clamp)
        return rho, token_constant(batch, "advantages", m)


@register("ppo_clip")
class PPOClipLoss(TokenLevelLoss, ClippedPolicyLoss):
    """PPO: L = aggregate of max(-A rho, -A clip(rho, 1 - e_l, 1 + e_h)), rho = exp(lp - lp_old).

    Reads ``next_token_logprobs`` [B, S-1] (or ``logits`` [B, S, V] and ``input_ids`` [B, S]), ``prev_logprobs``,
    ``advantages`` and ``token_mask``, all [B, S]; optional ``sample_mask`` [B], ``global_valid_toks``,
    ``global_valid_seqs``. Any real result, -mean A on policy (rho = 1). Only the policy receives gradient:
    dl/dlp = -A rho, and 0 where A > 0 and rho > 1 + e_h, or A < 0 and rho < 1 - e_l, or the dual clip holds.
    lp - lp_old saturates at 70 nats (``MAX_LOG_RATIO``).

    Config: ``ratio_clip_min`` e_l and ``ratio_clip_max`` e_h (0.2, at least 0); ``ratio_clip_c`` (None; above 1: where
    A < 0 the term is at most -A c); ``log_ratio_clamp`` (None; above 0: lp - lp_old is kept within it, either way, and
    has no gradient beyond); ``aggregation`` (``"token_mean"``); ``max_length`` (above 0, needed by ``"fixed"``).

    With the defaults it is NeMo RL. verl: ``ratio_clip_c=3`` (it cannot be switched off there), ``log_ratio_clamp=20``.
    OpenRLHF: ``log_ratio_clamp=20``. torchtune: both clips 0.1 and no ``global_valid_toks``. Open-Instruct:
    ``ratio_clip_max=0.272``. Where nothing is trained the result is 0; verl, OpenRLHF and TRL's PPO divide by the raw count
    and give NaN (``bnpo`` with ``empty="nan"``).

    Raises:
        ValueError: shapes that do not belong together, a token id outside the vocabulary.
        ConfigError: a setting out of range or unknown, ``"fixed"`` without ``max_length``.

    Source: arXiv 1707.06347, eq. 7; dual clip: arXiv 1912.09729.
    """

    contract = refine(ClippedPolicyLoss.contract, options={**ClippedPolicyLoss.contract.options, **AGGREGATION_OPTIONS})
    strict_config = True
