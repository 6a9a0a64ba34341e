"""What the losses of the next token promise, each of them beside what it adds."""

from __future__ import annotations

from typing import Final

from loss_reference.contract import Contract

__all__ = ["SUPERVISED"]

SUPERVISED: Final = Contract(
    family="supervised", level="token", normalizer="global", length_normalized=True, lower_bound=0.0
)
