"""What losses share that compare the two distributions of the next token position by position."""

from __future__ import annotations

from typing import Final

from torch import Tensor

from loss_reference.contract import Contract, Option
from loss_reference.distillation.kl import teacher_and_student
from loss_reference.interface import Batch, LossFunction, Outputs
from loss_reference.reduction import global_count, mean_of_terms
from loss_reference.settings import Setting

__all__ = ["DISTILLATION", "TEMPERATURE", "DivergenceLoss"]

TEMPERATURE: Final = Option(values=(0.5, 1.0, 2.0))
DISTILLATION: Final = Contract(
    family="distillation",
    level="token",
    normalizer="global",
    length_normalized=True,
    lower_bound=0.0,
    options={"temperature": TEMPERATURE},
)


class DivergenceLoss(LossFunction):
    """L = sum m v / T_g with v = ``divergence(log p, log q)`` of teacher p and student q at every position.

    Reads ``logits`` [B, S, V], ``teacher_logits`` [B, S, V] (or ``teacher_topk_logits`` and ``teacher_topk_indices``
    [B, S, K], both sides renormalised over these K) and ``token_mask`` [B, S]; optional ``sample_mask`` [B],
    ``global_valid_toks``. Logits of -inf give probability 0. Only the student receives gradient.

    Config: ``temperature`` (1, above 0) divides both logits; the result is not multiplied by its square.

    Raises:
        KeyError: neither form of the teacher.
        ValueError: shapes that do not belong together, an index outside the vocabulary.
        ConfigError: a setting out of range or unknown.
    """

    contract = DISTILLATION
    temperature = Setting(1.0, above=0.0)

    def divergence(self, log_p: Tensor, log_q: Tensor, /) -> Tensor:
        """Return one term per position [B, S-1] from the log-probabilities [B, S-1, V] of teacher and student."""
        raise NotImplementedError(f"{type(self).__name__} must define divergence(self, log_p, log_q)")

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        log_p, log_q, m = teacher_and_student(batch, model_outputs, self.temperature)
        return mean_of_terms(self.divergence(log_p, log_q), m, global_count(batch, "global_valid_toks"))
