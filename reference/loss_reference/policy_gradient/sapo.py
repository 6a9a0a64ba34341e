"""SAPO: a sigmoid gate in place of the hard clip."""

from __future__ import annotations

import torch
from torch import Tensor

from loss_reference.contract import Option
from loss_reference.interface import Batch
from loss_reference.logprobs import token_constant
from loss_reference.policy_gradient.policy import POLICY_GRADIENT, PolicyLoss
from loss_reference.policy_gradient.ratio import LOG_RATIO_CLAMP, probability_ratio
from loss_reference.reduction import AGGREGATIONS
from loss_reference.registry import register
from loss_reference.settings import Setting
from loss_reference.token_level import AGGREGATION_OPTIONS, TokenLevelLoss, refine

__all__ = ["SAPOLoss", "sapo"]


def sapo(rho: Tensor, A: Tensor, tau_pos: float = 1.0, tau_neg: float = 1.05) -> Tensor:
    """Return -A f(rho), f(rho) = (4 / tau) sigma(tau (rho - 1)), tau = tau_pos where A > 0 and tau_neg elsewhere.

    f lies in (0, 4 / tau), f(1) = 2 / tau and f'(1) = 1.
    """
    tau = torch.full_like(A, tau_neg).masked_fill(A > 0, tau_pos)
    return -A * (4 / tau) * torch.sigmoid(tau * (rho - 1))


@register("sapo")
class SAPOLoss(TokenLevelLoss, PolicyLoss):
    """SAPO: L = aggregate of -A (4 / tau) sigma(tau (rho - 1)), rho = exp(lp - lp_old), tau by the sign of A.

    Reads ``next_token_logprobs`` [B, S-1] (or ``logits`` [B, S, V] and ``input_ids`` [B, S]), ``prev_logprobs``,
    ``advantages`` and ``token_mask``, all [B, S]; optional ``sample_mask`` [B], ``global_valid_toks``,
    ``global_valid_seqs``. Any real result; -2 A / tau on policy, which is not -A. Only the policy receives gradient:
    dl/dlp = -4 A rho s (1 - s), s = sigma(tau (rho - 1)), on policy -A.

    Config: ``tau_pos`` (1, above 0) for A > 0, ``tau_neg`` (1.05, above 0) elsewhere; ``log_ratio_clamp`` (None; above 0:
    lp - lp_old is kept within it, either way; verl 20); ``aggregation`` (``"seq_mean_token_mean"``, the only one of verl);
    ``max_length`` (above 0, needed by ``"fixed"``).

    Raises:
        ValueError: shapes that do not belong together, a token id outside the vocabulary.
        ConfigError: a setting out of range or unknown, ``"fixed"`` without ``max_length``.

    Source: arXiv 2511.20347; TRL and verl ``sapo``.
    """

    contract = refine(
        POLICY_GRADIENT,
        level="sequence",
        direction={"advantages": -1},
        options={
            "tau_pos": Option(values=(0.5, 1.0, 2.0)),
            "tau_neg": Option(values=(0.5, 1.05, 2.0)),
            "log_ratio_clamp": LOG_RATIO_CLAMP,
            **AGGREGATION_OPTIONS,
        },
    )
    aggregation = Setting("seq_mean_token_mean", choices=AGGREGATIONS)
    tau_pos = Setting(1.0, above=0.0)
    tau_neg = Setting(1.05, above=0.0)
    log_ratio_clamp = Setting[float | None](None, above=0.0, optional=True)

    def policy_terms(self, lp: Tensor, m: Tensor, batch: Batch) -> Tensor:
        rho = probability_ratio(lp, token_constant(batch, "prev_logprobs", m), self.log_ratio_clamp)
        return sapo(rho, token_constant(batch, "advantages", m), self.tau_pos, self.tau_neg)
