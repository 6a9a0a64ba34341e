"""MiniLLM: reverse KL of whole answers by policy gradient, and of single steps exactly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from loss_reference.contract import Option
from loss_reference.distillation.divergence import DISTILLATION, TEMPERATURE
from loss_reference.distillation.kl import reverse_kl
from loss_reference.distillation.teacher import teacher_logits
from loss_reference.interface import Batch, LossFunction, Outputs
from loss_reference.logprobs import token_constant
from loss_reference.padding import PADDINGS, answer_positions, reading_padding
from loss_reference.parts import with_part
from loss_reference.policy_gradient.ppo_clip import ppo_clip
from loss_reference.policy_gradient.ratio import probability_ratio
from loss_reference.reduction import global_count, keep_active, mean_of_terms, row_weights
from loss_reference.registry import register
from loss_reference.relevance import where
from loss_reference.settings import Setting
from loss_reference.supervised.next_token import next_tokens, sampled, trained_logits
from loss_reference.token_level import refine

__all__ = ["MiniLLMLoss", "discounted_future", "future_reward", "minillm"]

DISCOUNTS: Final = ("relative", "absolute")


def discounted_future(x: Tensor, gamma: float) -> Tensor:
    """Return sum_{s>=t} gamma^(s-t) x_s along the last axis; x itself for gamma = 0."""
    future: list[Tensor] = []
    for x_t in reversed(x.unbind(dim=-1)):
        future.append(x_t + gamma * future[-1] if future else x_t)
    return torch.stack(future[::-1], dim=-1) if future else x


def future_reward(log_ratio: Tensor, m: Tensor, gamma: float = 1.0, normalized: bool = True) -> Tensor:
    """Return R_t = sum_{s>=t} g^(s-t) m_s x_s, divided by sum_{s>=t} g^(s-t) m_s if ``normalized``, one term per token.

    Args:
        log_ratio: x = lp_T - lp [B, S-1] of the sampled tokens, in nats.
        m: 1 or 0 [B, S-1]: whether a token counts.
        gamma: g in [0, 1].
        normalized: whether R is a weighted mean of the rest of the answer; 0 where nothing is left of it.
    """
    R = discounted_future(m * log_ratio, gamma)
    if not normalized:
        return R
    tokens = discounted_future(m, gamma)
    return R / tokens.where(tokens > 0, 1.0)


def minillm(rho: Tensor, A: Tensor, kl: Tensor, w: float = 1.0, clip_min: float = 0.2, clip_max: float = 0.2) -> Tensor:
    """Return max(-A rho, -A clip(rho, 1 - clip_min, 1 + clip_max)) + w KL(q || p), one term per token.

    Args:
        rho: exp(lp - lp_old) of the sampled tokens.
        A: advantages, see ``future_reward`` for what the teacher adds to them.
        kl: ``reverse_kl`` of teacher p and student q, in nats.
        w: weight of the single step, at least 0; with 0 its divergence is not taken, which may be infinite.
        clip_min, clip_max: how far the ratio may fall below and rise above 1, at least 0.
    """
    return with_part(ppo_clip(rho, A, clip_min, clip_max), w, kl)


@register("minillm")
class MiniLLMLoss(LossFunction):
    """MiniLLM: l_t = max(-A rho, -A clip(rho, 1 - e_l, 1 + e_h)) + w KL(q_t || p_t), A_t = advantages_t + R_t.

    R_t = sum_{s>=t} g^(s-t) m_s (lp_T - lp)_s, divided by sum_{s>=t} g^(s-t) m_s with ``length_normalization``: what the
    rest of the answer earns when the log-ratio of the teacher is the reward of a token; m is 0 or 1 here. rho =
    exp(lp - lp_old); without ``prev_logprobs`` it is exp(lp - sg lp), of value 1. The mean of l is over T_g.

    Reads ``logits`` and ``teacher_logits`` [B, S, V], ``input_ids`` and ``token_mask`` [B, S]; optional ``prev_logprobs``
    and ``advantages`` [B, S] (0 without), ``sample_mask`` [B], ``global_valid_toks``. In nats, any real result. Only the
    student receives gradient, through lp of rho and through q: R is constant. Where teacher and student agree R is 0,
    and so is the gradient without other advantages.

    Config: ``gamma`` g (1, in [0, 1]; 0: each token earns its own log-ratio alone); ``length_normalization`` (True);
    ``single_step_weight`` w (1, at least 0); ``ratio_clip_min`` e_l, ``ratio_clip_max`` e_h (0.2, at least 0);
    ``temperature`` (1, above 0) of R and of the divergence, not of rho. ``discount`` (``"relative"``; ``"absolute"``: the
    powers of g count from the answer's first trained token t0, so that R_t is g^(t-t0) times as much; TRL. With length
    normalisation the factor cancels, and g = 0 has none). ``padding`` (``"ignored"``; ``"counted"``: m of R is 1, and the
    divergence is averaged, at every position from t0 to the end of the row, whatever ``token_mask`` says of it; TRL, whose
    mask leaves out ids of -100 that answers never hold). What is counted is read: it must hold numbers and token ids, more
    padding changes the result, and the mean of the divergence is over the positions of this batch. ``detach_reward`` (True;
    False: the same value, with the gradient of R besides, which TRL up to 1.12 does not stop).

    Raises:
        KeyError: no ``teacher_logits``.
        ValueError: shapes that do not belong together, a token id outside the vocabulary.
        ConfigError: a setting out of range or unknown.

    Source: arXiv 2306.08543, section 2.2; TRL ``MiniLLMTrainer``.
    """

    contract = refine(
        DISTILLATION,
        length_normalized=False,
        lower_bound=float("-inf"),
        surrogate_gradient=True,
        options={
            "temperature": TEMPERATURE,
            "gamma": Option(values=(0.0, 0.9, 1.0)),
            "length_normalization": Option(values=(False, True)),
            "single_step_weight": Option(values=(0.0, 1.0)),
            "ratio_clip_min": Option(values=(0.0, 0.2)),
            "ratio_clip_max": Option(values=(0.0, 0.2)),
            "padding": Option(values=PADDINGS),
            "detach_reward": Option(values=(True, False)),
        },
    )
    temperature = Setting(1.0, above=0.0)
    gamma = Setting(1.0, least=0.0, most=1.0)
    length_normalization = Setting(True)
    single_step_weight = Setting(1.0, least=0.0)
    ratio_clip_min = Setting(0.2, least=0.0)
    ratio_clip_max = Setting(0.2, least=0.0)
    discount = Setting("relative", choices=DISCOUNTS, read_when=where("length_normalization", False))
    padding = Setting("ignored", choices=PADDINGS)
    detach_reward = Setting(True)

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        if not self.length_normalization:  # by which the factor cancels; at these gamma it is 1
            discount = {"discount": Option(values=DISCOUNTS, inert=self.gamma in (0.0, 1.0))}
            self.contract = refine(self.contract, options={**self.contract.options, **discount})
        if self.padding == "counted":
            self.contract = refine(reading_padding(self.contract, "TRL"), coupled=True)

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        z_q, m, c = self.scores_and_weights(batch, model_outputs)
        y = next_tokens(batch, c, z_q.shape[-1])
        log_p = (teacher_logits(batch, c, z_q.shape[-1]) / self.temperature).log_softmax(dim=-1)
        log_q = (z_q / self.temperature).log_softmax(dim=-1)
        A = self.advantages(sampled(log_p - log_q, y), m, c, batch)
        lp = sampled(z_q.log_softmax(dim=-1), y)
        given = batch.get("prev_logprobs") is not None
        rho = probability_ratio(lp, token_constant(batch, "prev_logprobs", m) if given else lp.detach())
        kl, w, T_g = reverse_kl(log_p, log_q), self.single_step_weight, global_count(batch, "global_valid_toks")
        if self.padding == "ignored" or w == 0:
            return mean_of_terms(minillm(rho, A, kl, w, self.ratio_clip_min, self.ratio_clip_max), m, T_g)
        policy = minillm(rho, A, kl, 0.0, self.ratio_clip_min, self.ratio_clip_max)
        return mean_of_terms(policy, m, T_g) + w * mean_of_terms(kl, c, None)

    def scores_and_weights(self, batch: Batch, model_outputs: Outputs) -> tuple[Tensor, Tensor, Tensor]:
        """Return (z, m, c): the logits [B, S-1, V], and the weights [B, S-1] of the policy's terms and of R and the KL."""
        z_q, m = trained_logits(batch, model_outputs)
        if self.padding == "ignored":
            return z_q, m, m
        c = answer_positions(m) * row_weights(batch, m).unsqueeze(1)
        return keep_active(model_outputs["logits"][:, :-1], c), m, c

    def advantages(self, log_ratio: Tensor, m: Tensor, c: Tensor, batch: Batch) -> Tensor:
        """Return R [B, S-1] of lp_T - lp of the sampled tokens, see ``future_reward``, plus the advantages of the batch."""
        R = self.future_reward(log_ratio.detach() if self.detach_reward else log_ratio, m, c)
        return R if batch.get("advantages") is None else R + token_constant(batch, "advantages", m)

    def future_reward(self, log_ratio: Tensor, m: Tensor, c: Tensor) -> Tensor:
        """Return R [B, S-1] of lp_T - lp of the sampled tokens, the weights m, and those of what R sums over, c."""
        R = future_reward(log_ratio, (c != 0).to(log_ratio), self.gamma, self.length_normalization)
        if self.discount == "absolute" and self.gamma > 0 and not self.length_normalization:
            since = (answer_positions(m).cumsum(dim=1) - 1).clamp(min=0).to(R)  # t - t0
            return R * self.gamma**since
        return R
