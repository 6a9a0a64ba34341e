"""Soft-capped logits: none is larger than a cap, and small ones are left as they are."""

from __future__ import annotations

from typing import Final

from torch import Tensor

from loss_reference.contract import Contract, Option
from loss_reference.token_level import refine

__all__ = ["SOFTCAP", "capping", "softcapped"]

SOFTCAP: Final = Option(values=(None, 2.0, 30.0))
CAPPED: Final = "softcap is a cap on the logits themselves, so that a constant added to all of them is felt"


def softcapped(logits: Tensor, softcap: float | None) -> Tensor:
    """Return s tanh(logits / s), within +-s; the logits themselves for None."""
    return logits if softcap is None else softcap * (logits / softcap).tanh()


def capping(contract: Contract) -> Contract:
    """Return ``contract`` without the law that a cap breaks: that a shift of all logits changes nothing."""
    return refine(contract, exempt={**contract.exempt, "logit_shift": CAPPED})
