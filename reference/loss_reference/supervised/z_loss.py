"""z-loss: keeps the logits from drifting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from loss_reference.contract import Option
from loss_reference.interface import Batch, Outputs
from loss_reference.registry import register
from loss_reference.settings import Setting
from loss_reference.supervised.contract import SUPERVISED
from loss_reference.supervised.next_token import trained_logits
from loss_reference.supervised.softcap import SOFTCAP, softcapped
from loss_reference.token_level import AGGREGATION_OPTIONS, TokenLevelLoss, refine

__all__ = ["ZLoss", "z_loss"]


def z_loss(logits: Tensor, coefficient: float = 1e-4) -> Tensor:
    """Return c (log sum_v e^(logits_v))^2 over the last axis, one term per token; c at least 0."""
    return coefficient * logits.logsumexp(dim=-1) ** 2


@register("z_loss")
class ZLoss(TokenLevelLoss):
    """z-loss: l = c (log Z)^2, Z = sum_v e^(logits_v) at the positions that predict a trained token.

    Reads ``logits`` [B, S, V] and ``token_mask`` [B, S]; optional ``sample_mask`` [B], ``global_valid_toks``,
    ``global_valid_seqs``. Result at least 0, 0 at Z = 1. Unlike the cross entropy it changes when a constant is added to
    all logits of a position: that is what it holds in place. The model receives gradient:
    dL/dlogits = 2 c m log Z softmax / T_g.

    Config: ``coefficient`` c (1e-4, at least 0); ``softcap`` s (None; above 0: Z is that of s tanh(logits / s), as in Liger
    where its ``softcap`` is set too); ``aggregation`` (``"token_mean"``); ``max_length`` (above 0, needed by ``"fixed"``).

    Raises:
        ValueError: shapes that do not belong together.
        ConfigError: a setting out of range or unknown, ``"fixed"`` without ``max_length``.

    Source: arXiv 2204.02311; Liger ``lse_square_scale``. Add it to ``nll`` with a composition.
    """

    contract = refine(
        SUPERVISED,
        direction={"coefficient": +1},
        options={**AGGREGATION_OPTIONS, "coefficient": Option(values=(0.0, 1e-4, 1.0)), "softcap": SOFTCAP},
    )
    coefficient = Setting(1e-4, least=0.0)
    softcap = Setting[float | None](None, above=0.0, optional=True)

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        if self.coefficient > 0:
            reason = "it is there to keep the level of the logits, which nothing else sees, near 0"
            self.contract = refine(self.contract, exempt={**self.contract.exempt, "logit_shift": reason})

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        z, m = trained_logits(batch, model_outputs)
        return self.reduce(z_loss(softcapped(z, self.softcap), self.coefficient), m, batch)
