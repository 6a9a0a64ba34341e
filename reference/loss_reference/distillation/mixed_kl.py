"""A mixture of forward and reverse KL distillation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from loss_reference.contract import Option
from loss_reference.distillation.divergence import DivergenceLoss
from loss_reference.distillation.kl import mixed_kl
from loss_reference.distillation.soft_ce import FORWARD_PARTS, VALUE_ALONE, soft_ce
from loss_reference.registry import register
from loss_reference.relevance import unless
from loss_reference.settings import Setting
from loss_reference.token_level import refine

__all__ = ["MixedKLLoss"]


@register("mixed_kl")
class MixedKLLoss(DivergenceLoss):
    """Mixed KL: L = sum m (w KL(p || q) + (1 - w) KL(q || p)) / T_g with teacher p and student q.

    Reads ``logits`` [B, S, V], ``teacher_logits`` [B, S, V] (or ``teacher_topk_logits`` and ``teacher_topk_indices``
    [B, S, K], both sides renormalised over these K) and ``token_mask`` [B, S]; optional ``sample_mask`` [B],
    ``global_valid_toks``. Result in nats per token, at least 0, 0 exactly where p = q; infinite where either divergence of
    non-zero weight is. Only the student receives gradient, the mixture of the two gradients.

    Config: ``temperature`` (1, above 0) divides both logits; ``mixed_kl_weight`` w (0.5, in [0, 1]): 1 is
    ``ForwardKLLoss``, 0 is ``ReverseKLLoss``; ``forward_part`` (``"kl"``, NeMo RL; ``"cross_entropy"``, torchtune
    ``SymmetricKLLoss``: ``SoftCELoss`` in the place of KL(p || q), of a value larger by w H(p) and the same gradient).

    Raises:
        KeyError: neither form of the teacher.
        ValueError: shapes that do not belong together, an index outside the vocabulary.
        ConfigError: a setting out of range or unknown.

    Source: NeMo RL ``DistillationLossFn`` with ``kl_type="mixed"``.
    """

    contract = refine(
        DivergenceLoss.contract,
        options={
            **DivergenceLoss.contract.options,
            "mixed_kl_weight": Option(values=(0.0, 0.5, 1.0), reduces_to={0.0: "reverse_kl", 1.0: "forward_kl"}),
            "forward_part": Option(values=FORWARD_PARTS),
        },
        exempt=VALUE_ALONE,
    )
    mixed_kl_weight = Setting(0.5, least=0.0, most=1.0)
    forward_part = Setting("kl", choices=FORWARD_PARTS, read_when=unless("mixed_kl_weight", 0))

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        if self.forward_part == "cross_entropy":
            w = Option(values=(0.0, 0.5, 1.0), reduces_to={0.0: "reverse_kl", 1.0: "soft_ce"})
            self.contract = refine(self.contract, options={**self.contract.options, "mixed_kl_weight": w})

    def divergence(self, log_p: Tensor, log_q: Tensor, /) -> Tensor:
        v, w = mixed_kl(log_p, log_q, self.mixed_kl_weight), self.mixed_kl_weight
        return v if self.forward_part == "kl" else v + w * soft_ce(log_p, log_p)
