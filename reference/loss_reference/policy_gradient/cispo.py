"""CISPO: the importance weight is clipped, no token loses its gradient."""

from __future__ import annotations

from torch import Tensor

from loss_reference.contract import Option
from loss_reference.interface import Batch
from loss_reference.logprobs import token_constant
from loss_reference.policy_gradient.policy import POLICY_GRADIENT, PolicyLoss
from loss_reference.policy_gradient.ratio import probability_ratio
from loss_reference.policy_gradient.reinforce import reinforce
from loss_reference.registry import register
from loss_reference.settings import Setting
from loss_reference.token_level import AGGREGATION_OPTIONS, TokenLevelLoss, refine

__all__ = ["CISPOLoss", "clipped_weight"]


def clipped_weight(
    rho: Tensor, clip_min: float = 0.2, clip_max: float = 0.2, absolute_bound: float | None = None
) -> Tensor:
    """Return the constant w = clip(rho, 1 - clip_min, 1 + clip_max), or min(rho, absolute_bound) when that is given."""
    rho = rho.detach()
    return rho.clamp(1 - clip_min, 1 + clip_max) if absolute_bound is None else rho.clamp(max=absolute_bound)


@register("cispo")
class CISPOLoss(TokenLevelLoss, PolicyLoss):
    """CISPO: L = aggregate of -sg(w) A lp, w = clip(rho, 1 - e_l, 1 + e_h), rho = exp(lp - lp_old).

    Reads ``next_token_logprobs`` [B, S-1] (or ``logits`` [B, S, V] and ``input_ids`` [B, S]), ``prev_logprobs``,
    ``advantages`` and ``token_mask``, all [B, S]; optional ``sample_mask`` [B], ``global_valid_toks``,
    ``global_valid_seqs``. Any real result. Only the policy receives gradient: dl/dlp = -w A, at every token, which is
    not the gradient of the value since w depends on lp too. On policy it is ``reinforce``.

    Config: ``ratio_clip_min`` e_l and ``ratio_clip_max`` e_h (0.2, at least 0): the form of NeMo RL and verl, relative
    to 1. ``absolute_bound`` (None; above 0) is the form of TRL and Liger, w = min(rho, absolute_bound), in which their
    ``epsilon_high`` is the bound itself (5 is recommended; their default 0.2 makes every weight at most 0.2);
    e_l and e_h are then not used. ``aggregation`` (``"token_mean"``); ``max_length`` (above 0, needed by ``"fixed"``).

    Raises:
        ValueError: shapes that do not belong together, a token id outside the vocabulary.
        ConfigError: a setting out of range or unknown, ``"fixed"`` without ``max_length``.

    Source: arXiv 2506.13585, eq. 4 and 5.
    """

    contract = refine(
        POLICY_GRADIENT,
        surrogate_gradient=True,
        direction={"advantages": +1},  # -lp is at least 0
        options={
            "ratio_clip_min": Option(values=(0.0, 0.2, 1.0)),
            "ratio_clip_max": Option(values=(0.0, 0.2, 5.0)),
            "absolute_bound": Option(values=(None, 0.2, 5.0)),
            **AGGREGATION_OPTIONS,
        },
    )
    ratio_clip_min = Setting(0.2, least=0.0)
    ratio_clip_max = Setting(0.2, least=0.0)
    absolute_bound = Setting[float | None](None, above=0.0, optional=True)

    def policy_terms(self, lp: Tensor, m: Tensor, batch: Batch) -> Tensor:
        rho = probability_ratio(lp, token_constant(batch, "prev_logprobs", m))
        w = clipped_weight(rho, self.ratio_clip_min, self.ratio_clip_max, self.absolute_bound)
        return w * reinforce(lp, token_constant(batch, "advantages", m))
