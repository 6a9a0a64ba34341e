"""What losses share that compare the two distributions of the next token position by position."""

from __future__ import annotations

from typing import Final

import torch.nn.functional as F
from torch import Tensor

from loss_reference.contract import Contract, Option
from loss_reference.distillation.kl import teacher_and_student, whole_scores
from loss_reference.interface import Batch, LossFunction, Outputs
from loss_reference.position_chunks import chunked_terms
from loss_reference.reduction import global_count, keep_active, mean_of_terms
from loss_reference.settings import Setting

__all__ = ["DISTILLATION", "TEMPERATURE", "DivergenceLoss"]

TEMPERATURE: Final = Option(values=(0.5, 1.0, 2.0))
DISTILLATION: Final = Contract(
    family="distillation",
    level="token",
    normalizer="global",
    length_normalized=True,
    lower_bound=0.0,
    options={"temperature": TEMPERATURE, "chunk_size": Option(values=(None, 1, 3), inert=True)},
)


class DivergenceLoss(LossFunction):
    """L = sum m v / T_g with v = ``divergence(log p, log q)`` of teacher p and student q at every position.

    Reads ``logits`` [B, S, V], ``teacher_logits`` [B, S, V] (or ``teacher_topk_logits`` and ``teacher_topk_indices``
    [B, S, K], both sides renormalised over these K) and ``token_mask`` [B, S]; optional ``sample_mask`` [B],
    ``global_valid_toks``. Logits of -inf give probability 0. Only the student receives gradient.

    Config: ``temperature`` (1, above 0) divides both logits; the result is not multiplied by its square. ``chunk_size``
    (None: as many as are compared fastest) positions are compared at a time when ``teacher_logits`` are given: the same
    numbers whatever it is. The gradient of chunks can be taken once, and goes to the student's logits alone: a subclass
    that learns parameters of its own is compared as a whole.

    Raises:
        KeyError: neither form of the teacher.
        ValueError: shapes that do not belong together, an index outside the vocabulary.
        ConfigError: a setting out of range or unknown.
    """

    contract = DISTILLATION
    temperature = Setting(1.0, above=0.0)
    chunk_size = Setting[int | None](None, least=1, optional=True, whole=True)

    def divergence(self, log_p: Tensor, log_q: Tensor, /) -> Tensor:
        """Return one term per position [...] from the log-probabilities [..., V] of teacher and student there."""
        raise NotImplementedError(f"{type(self).__name__} must define divergence(self, log_p, log_q)")

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        T_g = global_count(batch, "global_valid_toks")
        if batch.get("teacher_logits") is None or any(True for _ in self.parameters()):
            log_p, log_q, m = teacher_and_student(batch, model_outputs, self.temperature)
            return mean_of_terms(self.divergence(log_p, log_q), m, T_g)
        z_q, z_p, m = whole_scores(batch, model_outputs)
        active = F.pad(m != 0, (0, 1))
        v = chunked_terms(self._of_scores, z_q, (z_p, active), self.chunk_size)
        return mean_of_terms(v[:, :-1], m, T_g)

    def _of_scores(self, z_q: Tensor, z_p: Tensor, active: Tensor) -> Tensor:
        log_q, log_p = ((keep_active(z, active) / self.temperature).log_softmax(dim=-1) for z in (z_q, z_p))
        return self.divergence(log_p.to(log_q.dtype), log_q)
