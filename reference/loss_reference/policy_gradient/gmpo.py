"""GMPO: the geometric mean of ratios that are clipped one by one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from loss_reference.contract import Option
from loss_reference.interface import Batch
from loss_reference.logprobs import token_constant
from loss_reference.policy_gradient.policy import POLICY_GRADIENT, PolicyLoss
from loss_reference.policy_gradient.ratio import mean_over_tokens, ratio_of
from loss_reference.reduction import aggregate_tokens
from loss_reference.registry import register
from loss_reference.settings import Setting
from loss_reference.token_level import refine

__all__ = ["GMPOLoss", "gmpo", "one_sided_clip"]

DIVISORS: Final = ("sequences", "rows")


def one_sided_clip(delta: Tensor, A: Tensor, clip_min: float = 0.4, clip_max: float = 0.4) -> Tensor:
    """Return min(delta, clip_max) where A > 0, max(delta, -clip_min) where A < 0 and 0 where A = 0.

    A log-ratio exactly on a bound has the full gradient, one beyond it none.
    """
    sign = torch.sign(A)
    return sign * torch.minimum(sign * delta, sign * delta.clamp(-clip_min, clip_max))


def gmpo(delta: Tensor, A: Tensor, m: Tensor, clip_min: float = 0.4, clip_max: float = 0.4) -> Tensor:
    """Return -A exp(mean_t d), one term per token [B, S-1], d = ``one_sided_clip`` of delta; mean_t is weighted by ``m``.

    Args:
        delta: lp - lp_old [B, S-1], in nats, 0 where nothing is trained.
        A: advantages [B, S-1].
        m: weights of the tokens [B, S-1], 0 where nothing is trained.
        clip_min, clip_max: how far the *log*-ratio of a token may fall below and rise above 0, at least 0.
    """
    d = one_sided_clip(delta, A, clip_min, clip_max)
    return -ratio_of(mean_over_tokens(d, m)) * A


@register("gmpo", "geo_mean")
class GMPOLoss(PolicyLoss):
    """GMPO: L = (1/S_g) sum_b -exp(mean_t d) mean_t A, d = lp - lp_old clipped to e_h above if A > 0, to -e_l below if A < 0.

    Reads ``next_token_logprobs`` [B, S-1] (or ``logits`` [B, S, V] and ``input_ids`` [B, S]), ``prev_logprobs``,
    ``advantages`` and ``token_mask``, all [B, S]; optional ``sample_mask`` [B], ``global_valid_seqs``. ``advantages`` are
    usually one number per sequence; a token with A = 0 enters the geometric mean with ratio 1. Any real result, -mean A
    on policy. Only the policy receives gradient: dl_b/dlp_t = -exp(mean d) mean A / n_b, 0 at a clipped token. The mean
    log-ratio saturates at 70 nats (``MAX_LOG_RATIO``). Where nothing is clipped it is unclipped ``gspo``; rows of one
    token give ``ppo_clip`` with bounds exp(-e_l), exp(e_h).

    Config: ``ratio_clip_min`` e_l and ``ratio_clip_max`` e_h (0.4, at least 0), both of the *log*-ratio; ``divisor``
    (``"sequences"``, S_g; ``"rows"``, the number of rows of *this* batch, those of weight 0 too, as verl: a row in which
    nothing is trained is a term of 0, and microbatches do not add up).

    Raises:
        ValueError: shapes that do not belong together, a token id outside the vocabulary.
        ConfigError: a setting out of range or unknown.

    Source: arXiv 2507.20673, eq. 4; verl ``geo_mean``.
    """

    # No direction: an advantage that changes sign changes which bound holds for the whole row.
    contract = refine(
        POLICY_GRADIENT,
        level="sequence",
        options={
            "ratio_clip_min": Option(values=(0.0, 0.4, 1.0)),
            "ratio_clip_max": Option(values=(0.0, 0.4, 1.0)),
            "divisor": Option(values=DIVISORS),
        },
    )
    ratio_clip_min = Setting(0.4, least=0.0)
    ratio_clip_max = Setting(0.4, least=0.0)
    divisor = Setting("sequences", choices=DIVISORS)

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        if self.divisor == "rows":
            reason = 'divisor="rows" counts rows of weight 0 on purpose, as verl does'
            # Beside batches without a global count the divisor differs where rows are absent, and those are exempt.
            options = {key: option for key, option in self.contract.options.items() if key != "divisor"}
            exempt = {**self.contract.exempt, "absent_rows": reason}
            self.contract = refine(self.contract, normalizer="local", exempt=exempt, options=options)

    def policy_terms(self, lp: Tensor, m: Tensor, batch: Batch) -> Tensor:
        delta, A = lp - token_constant(batch, "prev_logprobs", m), token_constant(batch, "advantages", m)
        return gmpo(delta, A, m, self.ratio_clip_min, self.ratio_clip_max)

    def reduce(self, terms: Tensor, weights: Tensor, batch: Batch) -> Tensor:
        if self.divisor == "rows":
            batch = {**batch, "global_valid_seqs": terms.new_tensor(float(len(terms)))}
        return aggregate_tokens(terms, weights, batch, "seq_mean_token_mean")
