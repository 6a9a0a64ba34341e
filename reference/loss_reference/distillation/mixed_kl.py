"""A mixture of forward and reverse KL distillation."""

from __future__ import annotations

from torch import Tensor

from loss_reference.contract import Contract, Option
from loss_reference.distillation.kl import mixed_kl, teacher_and_student
from loss_reference.interface import Batch, LossFunction, Outputs
from loss_reference.reduction import global_count, mean_of_terms
from loss_reference.registry import register
from loss_reference.settings import Setting

__all__ = ["MixedKLLoss"]


@register("mixed_kl")
class MixedKLLoss(LossFunction):
    """Mixed KL: L = sum m (w KL(p || q) + (1 - w) KL(q || p)) / T_g with teacher p and student q.

    Reads ``logits`` [B, S, V], ``teacher_logits`` [B, S, V] (or ``teacher_topk_logits`` and ``teacher_topk_indices``
    [B, S, K], both sides renormalised over these K) and ``token_mask`` [B, S]; optional ``sample_mask`` [B],
    ``global_valid_toks``. Result in nats per token, at least 0, 0 exactly where p = q; infinite where either divergence of
    non-zero weight is. Only the student receives gradient, the mixture of the two gradients.

    Config: ``temperature`` (1, above 0) divides both logits; ``mixed_kl_weight`` w (0.5, in [0, 1]): 1 is
    ``ForwardKLLoss``, 0 is ``ReverseKLLoss``.

    Raises:
        KeyError: neither form of the teacher.
        ValueError: shapes that do not belong together, an index outside the vocabulary.
        ConfigError: a setting out of range or unknown.

    Source: NeMo RL ``DistillationLossFn`` with ``kl_type="mixed"``.
    """

    contract = Contract(
        family="distillation",
        level="token",
        normalizer="global",
        length_normalized=True,
        lower_bound=0.0,
        options={
            "temperature": Option(values=(0.5, 1.0, 2.0)),
            "mixed_kl_weight": Option(values=(0.0, 0.5, 1.0), reduces_to={0.0: "reverse_kl", 1.0: "forward_kl"}),
        },
    )
    temperature = Setting(1.0, above=0.0)
    mixed_kl_weight = Setting(0.5, least=0.0, most=1.0)

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        log_p, log_q, m = teacher_and_student(batch, model_outputs, self.temperature)
        return mean_of_terms(mixed_kl(log_p, log_q, self.mixed_kl_weight), m, global_count(batch, "global_valid_toks"))
