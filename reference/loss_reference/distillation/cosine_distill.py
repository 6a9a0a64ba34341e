"""Distillation by the angle between the logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from loss_reference.contract import Option
from loss_reference.distillation.divergence import DISTILLATION
from loss_reference.distillation.teacher import teacher_logits
from loss_reference.interface import Batch, LossFunction, Outputs
from loss_reference.reduction import global_count, mean_of_terms
from loss_reference.registry import register
from loss_reference.settings import Setting
from loss_reference.supervised.next_token import next_tokens, sampled, trained_logits
from loss_reference.supervised.nll import nll
from loss_reference.token_level import refine

__all__ = ["CosineDistillLoss", "cosine_distill", "logit_cosine"]

NORM_FLOOR: Final = 1e-8


def logit_cosine(z_p: Tensor, z_q: Tensor) -> Tensor:
    """Return the cosine of two rows of scores over the last axis, in [-1, 1].

    A token whose score is -inf in either is left out of both. A row shorter than 1e-8 is divided by that instead of its
    length: a row of zeros has cosine 0 to all.
    """
    possible = torch.isfinite(z_p) & torch.isfinite(z_q)
    z_p, z_q = torch.where(possible, z_p, 0.0), torch.where(possible, z_q, 0.0)
    u_p, u_q = (z / torch.linalg.vector_norm(z, dim=-1, keepdim=True).clamp(min=NORM_FLOOR) for z in (z_p, z_q))
    cosine: Tensor = (u_p * u_q).sum(dim=-1)
    return cosine


def cosine_distill(
    z_p: Tensor, z_q: Tensor, lp: Tensor | None = None, beta: float = 0.5, hard_weight: float = 0.0
) -> Tensor:
    """Return b (1 - cos(z_T, z_S)) + h (-lp), one term per token.

    Args:
        z_p, z_q: scores [..., V] of teacher and student.
        lp: log-probabilities [...] of the targets under the student, in nats; without them the second part is left out.
        beta: b, above 0.
        hard_weight: h, at least 0.
    """
    angle = beta * (1 - logit_cosine(z_p, z_q))
    return angle if lp is None else angle + hard_weight * nll(lp)


@register("cosine_distill")
class CosineDistillLoss(LossFunction):
    """Cosine distillation: v = b (1 - cos(z_T, z_S)) + h (-log q(y)), of the logits of teacher and student themselves.

    Reads ``logits`` and ``teacher_logits`` [B, S, V] and ``token_mask`` [B, S]; ``input_ids`` [B, S] when h > 0; optional
    ``sample_mask`` [B], ``global_valid_toks``. The first part is in [0, 2 b], 0 where the rows point the same way. It does
    not change when either row is multiplied by a positive number, so it says nothing of how sure the student is, and it
    does change when a constant is added to a row, which no probability sees. Only the student receives gradient, orthogonal
    to its logits.

    Config: ``beta`` b (0.5, above 0); ``hard_weight`` h (0, at least 0).

    Raises:
        KeyError: no ``teacher_logits``, no ``input_ids`` where h > 0.
        ValueError: shapes that do not belong together, a token id outside the vocabulary.
        ConfigError: a setting out of range or unknown.

    Source: Liger ``LigerFusedLinearCosineSimilarityLoss``.
    """

    contract = refine(
        DISTILLATION,
        direction={"beta": +1, "hard_weight": +1},
        options={"beta": Option(values=(0.5, 1.0)), "hard_weight": Option(values=(0.0, 0.5, 1.0))},
        exempt={"logit_shift": "the angle between two vectors of scores changes with their common level"},
    )
    beta = Setting(0.5, above=0.0)
    hard_weight = Setting(0.0, least=0.0)

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        if self.hard_weight == 0:
            self.contract = refine(self.contract, upper_bound=2 * self.beta)

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        z_q, m = trained_logits(batch, model_outputs)
        z_p, h = teacher_logits(batch, m, z_q.shape[-1]), self.hard_weight
        if batch.get("input_ids") is None and h > 0:
            raise KeyError("batch needs 'input_ids' where hard_weight is above 0")
        lp = sampled(z_q.log_softmax(dim=-1), next_tokens(batch, m, z_q.shape[-1])) if h > 0 else None
        terms = cosine_distill(z_p, z_q, lp, self.beta, h)
        return mean_of_terms(terms, m, global_count(batch, "global_valid_toks"))
