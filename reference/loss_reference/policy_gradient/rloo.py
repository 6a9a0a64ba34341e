"""RLOO: leave-one-out advantages, and the ratio of the whole answer clipped at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from torch import Tensor

from loss_reference.contract import Option
from loss_reference.interface import Batch
from loss_reference.logprobs import token_constant
from loss_reference.policy_gradient.policy import POLICY_GRADIENT, PolicyLoss
from loss_reference.policy_gradient.ppo_clip import ppo_clip
from loss_reference.policy_gradient.ratio import mean_over_tokens, probability_ratio, ratio_of
from loss_reference.reduction import aggregate_tokens, mean_of_rows, row_weights
from loss_reference.registry import register
from loss_reference.settings import Setting
from loss_reference.token_level import refine

__all__ = ["RLOOLoss", "rloo"]

RATIO_LEVELS: Final = ("sequence", "token")


def rloo(delta: Tensor, A: Tensor, m: Tensor, clip_min: float = 0.2, clip_max: float = 0.2) -> Tensor:
    """Return max(-A_b s_b, -A_b clip(s_b, 1 - clip_min, 1 + clip_max)) of every answer [B], s_b = exp(sum_t delta).

    Args:
        delta: lp - lp_old [B, S-1], in nats, 0 where nothing is trained; not divided by the length of the answer.
        A: advantages [B, S-1], 0 where nothing is trained; A_b is their mean over the answer, weighted by ``m``.
        m: weights of the tokens [B, S-1], 0 where nothing is trained.
        clip_min, clip_max: how far s_b may fall below and rise above 1, at least 0.
    """
    s = ratio_of(delta.sum(dim=1))
    return ppo_clip(s, mean_over_tokens(A, m).squeeze(1), clip_min, clip_max)


@register("rloo")
class RLOOLoss(PolicyLoss):
    """RLOO: L = (1/S_g) sum_b max(-A_b s_b, -A_b clip(s_b, 1 - e_l, 1 + e_h)), s_b = exp(sum_t (lp - lp_old)).

    Reads ``next_token_logprobs`` [B, S-1] (or ``logits`` [B, S, V] and ``input_ids`` [B, S]), ``prev_logprobs``,
    ``advantages`` and ``token_mask``, all [B, S]; optional ``sample_mask`` [B], ``global_valid_seqs``,
    ``global_valid_toks``. ``advantages`` are those of ``rloo_advantages``, one number per answer; A_b is their mean over
    the trained tokens of the row. The ratio is that of the whole answer, not divided by its length, so a few nats already
    clip it. Any real result, -mean A on policy. Only the policy receives gradient: dl_b/dlp_t = -A_b s_b at every token
    of the row, 0 where clipped. The summed log-ratio saturates at 70 nats (``MAX_LOG_RATIO``). ``sample_mask`` weights the
    row and does not enter s. Rows of one token give ``ppo_clip``.

    Config: ``ratio_level`` (``"sequence"``, the above: TRL's trainer, which takes the KL penalty off the reward,
    ``kl_in_reward``; ``"token"``, ``ppo_clip`` with its mean over tokens: NeMo RL and verl, where RLOO names the advantage
    alone); ``ratio_clip_min`` e_l and ``ratio_clip_max`` e_h (0.2, at least 0).

    Raises:
        ValueError: shapes that do not belong together, a token id outside the vocabulary.
        ConfigError: a setting out of range or unknown.

    Source: arXiv 2402.14740; TRL ``RLOOTrainer``.
    """

    contract = refine(
        POLICY_GRADIENT,
        level="sequence",
        length_normalized=False,
        direction={"advantages": -1},
        options={
            "ratio_level": Option(values=RATIO_LEVELS, reduces_to={"token": "ppo_clip"}),
            "ratio_clip_min": Option(values=(0.0, 0.2, 1.0)),
            "ratio_clip_max": Option(values=(0.0, 0.2, 1.0)),
        },
    )
    ratio_level = Setting("sequence", choices=RATIO_LEVELS)
    ratio_clip_min = Setting(0.2, least=0.0)
    ratio_clip_max = Setting(0.2, least=0.0)

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        if self.ratio_level == "token":
            self.contract = refine(self.contract, level="token", length_normalized=True)

    def policy_terms(self, lp: Tensor, m: Tensor, batch: Batch) -> Tensor:
        lp_old, A = token_constant(batch, "prev_logprobs", m), token_constant(batch, "advantages", m)
        if self.ratio_level == "token":
            return ppo_clip(probability_ratio(lp, lp_old), A, self.ratio_clip_min, self.ratio_clip_max)
        return rloo(lp - lp_old, A, m, self.ratio_clip_min, self.ratio_clip_max)

    def reduce(self, terms: Tensor, weights: Tensor, batch: Batch) -> Tensor:
        if self.ratio_level == "token":
            return aggregate_tokens(terms, weights, batch, "token_mean")
        return mean_of_rows(terms, row_weights(batch, weights), batch)
