"""A*-PO: regression of the log-ratio onto the optimal advantage."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from loss_reference.contract import Contract, Field, Option
from loss_reference.interface import Batch, LossFunction, Outputs
from loss_reference.logprobs import token_constant, trained_logprobs
from loss_reference.reduction import accumulation_dtype, keep_active, mean_of_rows, row_weights
from loss_reference.registry import register
from loss_reference.settings import Setting
from loss_reference.shapes import require_shape

__all__ = ["A2POLoss", "a2po", "a2po_value"]


def a2po(h: Tensor, r: Tensor, v: Tensor, beta: float = 1e-3) -> Tensor:
    """Return (beta h - (r - v))^2 per answer [B], for log-ratio h, reward r and optimal value v of its prompt."""
    return (beta * h - (r - v)).square()


def a2po_value(reference_rewards: Tensor, beta1: float = 0.5) -> Tensor:
    """Return V* = beta1 (log sum_i exp(r_i / beta1) - log n) [...] from the rewards [..., n] of n reference answers.

    Between the mean and the largest of the rewards; r where all are r. ``beta1`` above 0: the larger, the nearer the mean.
    Half precision is widened to float32.
    """
    r = reference_rewards.to(accumulation_dtype(reference_rewards))
    return beta1 * (torch.logsumexp(r / beta1, dim=-1) - math.log(r.shape[-1]))


@register("a2po")
class A2POLoss(LossFunction):
    """A*-PO: L = (1/S_g) sum_b w_b (beta h_b - (r_b - V*_b))^2, h_b = sum_t (lp - lp_ref) over the trained tokens.

    Reads ``next_token_logprobs`` [B, S-1] (or ``logits`` [B, S, V] and ``input_ids`` [B, S]),
    ``reference_policy_logprobs`` and ``token_mask``, both [B, S], ``rewards`` [B], and ``v_star`` [B], the optimal value of
    the prompt of each row (``a2po_value`` of rewards that the reference policy earned there); optional ``sample_mask``
    [B], ``global_valid_seqs``. Result in squared units of the reward, at least 0; 0 where beta h = r - V*, which the policy
    proportional to pi_ref exp(r / beta) fulfils; mean (r - V*)^2 at policy = reference. Only the policy receives
    gradient: dl_b/dlp_t = 2 beta (beta h_b - (r_b - V*_b)).

    Config: ``beta`` (1e-3, above 0; the paper's beta_2).

    Raises:
        ValueError: shapes that do not belong together, a token id outside the vocabulary.
        ConfigError: a setting out of range or unknown.

    Source: arXiv 2505.20686; TRL ``A2POTrainer``.
    """

    contract = Contract(
        family="policy_gradient",
        level="sequence",
        normalizer="global",
        length_normalized=False,
        lower_bound=0.0,
        fields={"v_star": Field("rewards", "B")},
        options={"beta": Option(values=(1e-3, 0.1, 1.0))},
    )
    beta = Setting(1e-3, above=0.0)

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        lp, m = trained_logprobs(batch, model_outputs)
        h, w = (lp - token_constant(batch, "reference_policy_logprobs", m)).sum(dim=1), row_weights(batch, lp)
        for name in ("rewards", "v_star"):
            require_shape(name, batch[name], tuple(w.shape), "one per row")
        r, v = (keep_active(batch[name].detach(), w).to(w.dtype) for name in ("rewards", "v_star"))
        return mean_of_rows(a2po(h, r, v, self.beta), w, batch)
