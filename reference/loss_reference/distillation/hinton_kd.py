"""Knowledge distillation with hard and soft targets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from loss_reference.contract import Option
from loss_reference.distillation.divergence import DISTILLATION
from loss_reference.distillation.kl import forward_kl, teacher_and_student
from loss_reference.interface import Batch, LossFunction, Outputs
from loss_reference.reduction import global_count, mean_of_terms
from loss_reference.registry import register
from loss_reference.relevance import unless, where
from loss_reference.settings import Setting
from loss_reference.supervised.next_token import next_tokens, sampled, trained_logits
from loss_reference.supervised.nll import nll
from loss_reference.token_level import refine

__all__ = ["HintonKDLoss", "hinton_kd"]


def hinton_kd(log_p: Tensor, log_q: Tensor, lp: Tensor, alpha: float = 0.5, scale: float = 4.0) -> Tensor:
    """Return (1 - a) (-lp) + a c KL(p || q), one term per token; a part of weight 0 is not taken, as it may be infinite.

    Args:
        log_p, log_q: log-probabilities [..., V] of teacher and student at temperature T, in nats.
        lp: log-probabilities [...] of the targets under the student.
        alpha: a in [0, 1], the share of the soft part.
        scale: c, which is T^2 for Hinton.
    """
    if alpha in (0, 1):
        return scale * forward_kl(log_p, log_q) if alpha else nll(lp)
    return (1 - alpha) * nll(lp) + alpha * scale * forward_kl(log_p, log_q)


@register("hinton_kd")
class HintonKDLoss(LossFunction):
    """Hinton's distillation: v = (1 - a) (-log q(y)) + a T^2 KL(p_T || q_T), y the next token of ``input_ids``.

    Reads what ``DivergenceLoss`` reads, and ``input_ids`` [B, S]. p_T and q_T are teacher and student at temperature T, q
    is the student at temperature 1. The factor T^2 keeps the share of the soft part in the gradient when T changes:
    dv/dlogits = (1 - a) (q - onehot) + a T (q_T - p_T). In nats per token, at least 0. A part of weight 0 is not taken, as
    it may be infinite. Only the student receives gradient.

    Config: ``alpha`` a (0.5, in [0, 1]): 0 is ``NLLLoss``, 1 at T = 1 is ``ForwardKLLoss``; ``temperature`` T (2, above
    0); ``temper_hard`` (False; True: the hard part at temperature T too) and ``scale_soft`` (True; False: without T^2).
    Liger's ``weight_hard_loss`` and ``weight_soft_loss`` are 1 - a and a with ``scale_soft=False`` (as of release
    0.8.5, which takes the hard part at T = 1).

    Raises:
        KeyError: neither form of the teacher.
        ValueError: shapes that do not belong together, a token id outside the vocabulary.
        ConfigError: a setting out of range or unknown.

    Source: arXiv 1503.02531, section 2.
    """

    contract = refine(
        DISTILLATION,
        options={
            "alpha": Option(values=(0.0, 0.5, 1.0)),
            "temperature": Option(values=(1.0, 2.0)),
            "temper_hard": Option(values=(False, True)),
            "scale_soft": Option(values=(False, True)),
        },
    )
    alpha = Setting(0.5, least=0.0, most=1.0)
    temperature = Setting(2.0, above=0.0, read_when=unless("alpha", 0) | where("temper_hard", True))
    temper_hard = Setting(False, read_when=unless("alpha", 1))
    scale_soft = Setting(True, read_when=unless("alpha", 0))

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        if not self.temper_hard or self.temperature == 1:
            alpha = Option(values=(0.0, 0.5, 1.0), reduces_to={0.0: "nll"})
            self.contract = refine(self.contract, options={**self.contract.options, "alpha": alpha})

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        T = self.temperature
        log_p, log_q, m = teacher_and_student(batch, model_outputs, T)
        z, _ = trained_logits(batch, model_outputs)
        lp = sampled((z / T if self.temper_hard else z).log_softmax(dim=-1), next_tokens(batch, m, z.shape[-1]))
        v = hinton_kd(log_p, log_q, lp, self.alpha, T**2 if self.scale_soft else 1.0)
        return mean_of_terms(v, m, global_count(batch, "global_valid_toks"))
