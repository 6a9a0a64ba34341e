"""CISPO: the importance weight is clipped, no token loses its gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from torch import Tensor

from loss_reference.contract import Option
from loss_reference.interface import Batch
from loss_reference.logprobs import token_constant
from loss_reference.policy_gradient.policy import POLICY_GRADIENT, PolicyLoss
from loss_reference.policy_gradient.ratio import LOG_RATIO_CLAMP, probability_ratio
from loss_reference.policy_gradient.reinforce import reinforce
from loss_reference.registry import register
from loss_reference.relevance import where
from loss_reference.settings import ConfigError, Setting
from loss_reference.token_level import AGGREGATION_OPTIONS, TokenLevelLoss, refine

__all__ = ["CISPOLoss", "cispo", "clipped_weight"]

WEIGHT_BOUNDS: Final = ("relative", "absolute", "upper")


def clipped_weight(rho: Tensor, clip_min: float = 0.2, clip_max: float = 0.2, weight_bound: str = "relative") -> Tensor:
    """Return the constant weight w of every token.

    ============ ====================================== ==================
    weight_bound w                                      in
    ============ ====================================== ==================
    relative     clip(rho, 1 - clip_min, 1 + clip_max)  NeMo RL, verl
    absolute     min(rho, clip_max)                     TRL, Liger
    upper        min(rho, 1 + clip_max)                 Open-Instruct
    ============ ====================================== ==================
    """
    rho = rho.detach()
    if weight_bound == "relative":
        return rho.clamp(1 - clip_min, 1 + clip_max)
    return rho.clamp(max=clip_max if weight_bound == "absolute" else 1 + clip_max)


def cispo(
    lp: Tensor,
    rho: Tensor,
    A: Tensor,
    clip_min: float = 0.2,
    clip_max: float = 0.2,
    weight_bound: str = "relative",
) -> Tensor:
    """Return -sg(w) A lp, w = clip(rho, 1 - clip_min, 1 + clip_max), one term per token, sg(.) the stop-gradient.

    Args:
        lp: log-probabilities of the sampled tokens, in nats; alone to receive gradient.
        rho: exp(lp - lp_old).
        A: advantages.
        clip_min, clip_max: at least 0.
        weight_bound: how w is bounded, see ``clipped_weight``.
    """
    return clipped_weight(rho, clip_min, clip_max, weight_bound) * reinforce(lp, A)


@register("cispo")
class CISPOLoss(TokenLevelLoss, PolicyLoss):
    """CISPO: L = aggregate of -sg(w) A lp, w = clip(rho, 1 - e_l, 1 + e_h), rho = exp(lp - lp_old).

    Reads ``next_token_logprobs`` [B, S-1] (or ``logits`` [B, S, V] and ``input_ids`` [B, S]), ``prev_logprobs``,
    ``advantages`` and ``token_mask``, all [B, S]; optional ``sample_mask`` [B], ``global_valid_toks``,
    ``global_valid_seqs``. Any real result. Only the policy receives gradient: dl/dlp = -w A, at every token, which is
    not the gradient of the value since w depends on lp too. On policy it is ``reinforce``.

    Config: ``weight_bound`` (``"relative"``, the form above: NeMo RL and verl; ``"absolute"``, w = min(rho, e_h): TRL and
    Liger, whose ``epsilon_high`` is the bound itself, so that 5 is recommended and their default 0.2 makes every weight at
    most 0.2; ``"upper"``, w = min(rho, 1 + e_h): Open-Instruct, with e_h = 0.272); ``ratio_clip_min`` e_l (0.2, at least
    0, read by ``"relative"`` alone) and ``ratio_clip_max`` e_h (0.2, at least 0, above 0 for ``"absolute"``);
    ``log_ratio_clamp`` (None; above 0: lp - lp_old is kept within it, either way; verl 20); ``aggregation``
    (``"token_mean"``); ``max_length`` (above 0, needed by ``"fixed"``).

    Raises:
        ValueError: shapes that do not belong together, a token id outside the vocabulary.
        ConfigError: a setting out of range or unknown, ``"fixed"`` without ``max_length``, an absolute bound of 0.

    Source: arXiv 2506.13585, eq. 4 and 5.
    """

    contract = refine(
        POLICY_GRADIENT,
        surrogate_gradient=True,
        direction={"advantages": +1},  # -lp is at least 0
        options={
            "ratio_clip_min": Option(values=(0.0, 0.2, 1.0)),
            "ratio_clip_max": Option(values=(0.0, 0.2, 5.0)),
            "weight_bound": Option(values=WEIGHT_BOUNDS),
            "log_ratio_clamp": LOG_RATIO_CLAMP,
            **AGGREGATION_OPTIONS,
        },
    )
    ratio_clip_min = Setting(0.2, least=0.0, read_when=where("weight_bound", "relative"))
    ratio_clip_max = Setting(0.2, least=0.0)
    weight_bound = Setting("relative", choices=WEIGHT_BOUNDS)
    log_ratio_clamp = Setting[float | None](None, above=0.0, optional=True)

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        if self.weight_bound == "absolute" and self.ratio_clip_max == 0:
            raise ConfigError(
                f"{type(self).__name__}: ratio_clip_max=0 with weight_bound='absolute' makes every weight 0; "
                "expected a number above 0"
            )

    def policy_terms(self, lp: Tensor, m: Tensor, batch: Batch) -> Tensor:
        rho = probability_ratio(lp, token_constant(batch, "prev_logprobs", m), self.log_ratio_clamp)
        A = token_constant(batch, "advantages", m)
        return cispo(lp, rho, A, self.ratio_clip_min, self.ratio_clip_max, self.weight_bound)
