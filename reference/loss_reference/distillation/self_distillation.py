"""Self-distillation: the same model, shown more, teaches itself on answers an earlier version sampled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from loss_reference.contract import Option
from loss_reference.distillation.divergence import DISTILLATION, TEMPERATURE
from loss_reference.distillation.kl import teacher_and_student
from loss_reference.distillation.mixture import generalized_jsd
from loss_reference.distillation.on_policy import SAMPLED, opd_sampled
from loss_reference.interface import Batch, LossFunction, Outputs
from loss_reference.logprobs import token_constant, trained_logprobs
from loss_reference.policy_gradient.ppo_clip import ppo_clip
from loss_reference.policy_gradient.ratio import probability_ratio
from loss_reference.reduction import aggregate_tokens
from loss_reference.registry import register
from loss_reference.relevance import unless
from loss_reference.settings import Setting
from loss_reference.supervised.next_token import next_tokens, sampled, trained_logits
from loss_reference.token_level import refine

__all__ = ["SDFTLoss", "SDPOLoss", "clipped_importance", "sdft", "sdpo"]

LARGEST_LOG_RATIO: Final = 20.0
IS_CLIPS: Final = Option(values=(0.5, 1.0, 2.0))


def clipped_importance(lp: Tensor, lp_old: Tensor, is_clip: float = 2.0) -> Tensor:
    """Return min(exp(lp - lp_old), is_clip) per token, a constant; the exponent stays within 20 nats."""
    return (lp - lp_old).detach().clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp().clamp(max=is_clip)


def sdft(log_p: Tensor, log_q: Tensor, lp: Tensor, lp_old: Tensor, alpha: float = 0.5, is_clip: float = 2.0) -> Tensor:
    """Return sg(w) JSD_a(p, q), w = min(exp(lp - lp_old), c), one term per token.

    Args:
        log_p, log_q: log-probabilities [..., V] of teacher and student, in nats.
        lp, lp_old: log-probabilities [...] of the tokens under the student, and under the model that sampled them.
        alpha: a in [0, 1], the b of ``generalized_jsd``.
        is_clip: c, above 0.
    """
    return clipped_importance(lp, lp_old, is_clip) * generalized_jsd(log_p, log_q, alpha)


def sdpo(
    lp: Tensor, lp_teacher: Tensor, lp_old: Tensor, l_ppo: Tensor | float = 0.0, d: float = 1.0, is_clip: float = 2.0
) -> Tensor:
    """Return (1 - d) l_PPO + d sg(w) sg(lp - lp_T) lp, w = min(exp(lp - lp_old), c), one term per token.

    Args:
        lp, lp_teacher, lp_old: log-probabilities [...] of the tokens, in nats, under student, teacher and sampling model.
        l_ppo: the clipped terms [...] of PPO; 0 where d = 1.
        d: the share of distillation, in [0, 1].
        is_clip: c, above 0.
    """
    policy = (1 - d) * torch.as_tensor(l_ppo)
    # A part of weight 0 is not taken: a teacher may find a token impossible.
    return policy if d == 0 else policy + d * clipped_importance(lp, lp_old, is_clip) * opd_sampled(lp, lp_teacher)


@register("sdft")
class SDFTLoss(LossFunction):
    """Self-distilled fine-tuning: l = sg(w) JSD_a(p, q), w = min(exp(lp - lp_old), c), the mean of row means.

    JSD_a is that of ``GeneralizedJSDLoss`` with beta = a: the forward divergence at a = 0, the reverse one at a = 1. Reads
    what ``DivergenceLoss`` reads, ``input_ids`` and ``prev_logprobs`` [B, S]; optional ``global_valid_seqs``. In nats, at
    least 0, 0 exactly where teacher p = student q; at most c log 2 at a = 1/2. Only the student receives gradient, through
    q and not through the importance weight w, which corrects for answers sampled by an earlier version. lp is at
    temperature 1.

    Config: ``alpha`` a (0.5, in [0, 1]); ``is_clip`` c (2, above 0); ``temperature`` (1, above 0).

    Raises:
        KeyError: neither form of the teacher, no ``prev_logprobs``.
        ValueError: shapes that do not belong together, a token id outside the vocabulary.
        ConfigError: a setting out of range or unknown.

    Source: arXiv 2601.19897; TRL's self-distillation trainer, which looks at the student's top 100 tokens by default.
    """

    contract = refine(
        DISTILLATION,
        level="sequence",
        surrogate_gradient=True,
        options={"temperature": TEMPERATURE, "alpha": Option(values=(0.0, 0.5, 1.0)), "is_clip": IS_CLIPS},
    )
    temperature = Setting(1.0, above=0.0)
    alpha = Setting(0.5, least=0.0, most=1.0)
    is_clip = Setting(2.0, above=0.0)

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        log_p, log_q, m = teacher_and_student(batch, model_outputs, self.temperature)
        z, _ = trained_logits(batch, model_outputs)
        lp = sampled(z.log_softmax(dim=-1), next_tokens(batch, m, z.shape[-1]))
        terms = sdft(log_p, log_q, lp, token_constant(batch, "prev_logprobs", m), self.alpha, self.is_clip)
        return aggregate_tokens(terms, m, batch, "seq_mean_token_mean")


@register("sdpo")
class SDPOLoss(LossFunction):
    """Self-distilled policy optimisation: l = (1 - d) l_PPO + d sg(w) sg(lp - lp_T) lp, the mean of row means.

    w = min(exp(lp - lp_old), c); l_PPO is the clipped term of ``PPOClipLoss``. Reads ``next_token_logprobs`` [B, S-1] (or
    ``logits`` [B, S, V] and ``input_ids``), ``teacher_logprobs``, ``prev_logprobs`` and ``token_mask`` [B, S], and
    ``advantages`` [B, S] when d < 1; optional ``sample_mask`` [B], ``global_valid_seqs``. Any real result. Only the student
    receives gradient: of the second term w (lp - lp_T), in expectation that of KL(student || teacher), 0 where both agree.

    Config: ``distillation_weight`` d (1, in [0, 1]); ``is_clip`` c (2, above 0); ``ratio_clip_min``, ``ratio_clip_max``
    (0.2, at least 0) of l_PPO.

    Raises:
        KeyError: no ``teacher_logprobs`` or ``prev_logprobs``, no ``advantages`` where d < 1.
        ValueError: shapes that do not belong together, a token id outside the vocabulary.
        ConfigError: a setting out of range or unknown.

    Source: arXiv 2601.20802; TRL's self-distillation trainer on sampled tokens.
    """

    contract = refine(SAMPLED, level="sequence", options={"is_clip": IS_CLIPS})
    distillation_weight = Setting(1.0, least=0.0, most=1.0)
    is_clip = Setting(2.0, above=0.0, read_when=unless("distillation_weight", 0))
    ratio_clip_min = Setting(0.2, least=0.0, read_when=unless("distillation_weight", 1))
    ratio_clip_max = Setting(0.2, least=0.0, read_when=unless("distillation_weight", 1))

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        if self.distillation_weight < 1:
            mixed = dict.fromkeys(("ratio_clip_min", "ratio_clip_max"), Option(values=(0.0, 0.2)))
            mixed["distillation_weight"] = Option(values=(0.0, 0.5, 1.0))
            self.contract = refine(self.contract, options={**self.contract.options, **mixed})

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        lp, m = trained_logprobs(batch, model_outputs)
        lp_old, d = token_constant(batch, "prev_logprobs", m), self.distillation_weight
        lp_teacher, l_ppo = token_constant(batch, "teacher_logprobs", m), lp.new_zeros(())
        if d < 1:
            A = token_constant(batch, "advantages", m)
            l_ppo = ppo_clip(probability_ratio(lp, lp_old), A, self.ratio_clip_min, self.ratio_clip_max)
        terms = sdpo(lp, lp_teacher, lp_old, l_ppo, d, self.is_clip)
        return aggregate_tokens(terms, m, batch, "seq_mean_token_mean")
