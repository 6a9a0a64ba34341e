"""How a batch of pairs is laid out: rows as neighbours or as the two halves of the batch, the reference rolled or not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from loss_reference.contract import Field, Option
from loss_reference.interface import Batch, LossFunction, Outputs
from loss_reference.settings import Setting
from loss_reference.token_level import refine
from loss_reference.view import ReadOnlyView

__all__ = [
    "PAIR_LAYOUT",
    "PAIR_LAYOUTS",
    "ROLLED_REFERENCE",
    "HalvesAsPairs",
    "PairedLoss",
    "ReferencedPairsLoss",
    "RolledReference",
    "halves_to_pairs",
]

PAIR_LAYOUTS: Final = ("interleaved", "halves")
PAIR_LAYOUT: Final = Option(values=PAIR_LAYOUTS)
# True is another way to be fed, not another loss: a loss that is off by one token is not to be found equal to it.
ROLLED_REFERENCE: Final = Option(values=(False,))
REFERENCE: Final = "reference_policy_logprobs"


def halves_to_pairs(rows: Tensor, what: str = "the batch") -> Tensor:
    """Return ``rows`` [B, ...] in the order 0, B/2, 1, B/2 + 1, ...: the i-th rows of both halves become neighbours.

    Raises:
        ValueError: an odd number of rows.
    """
    if len(rows) % 2:
        raise ValueError(f"{what} has {len(rows)} rows; pairs are the halves of the batch, so expected an even number")
    return torch.stack(rows.chunk(2), dim=1).flatten(0, 1) if len(rows) else rows


class HalvesAsPairs(ReadOnlyView):
    """A mapping of tensors [B, ...] whose first half of rows is chosen, read as interleaved pairs; scalars stay as they are."""

    def _shown(self, name: str, field: Any, /) -> Any:
        return halves_to_pairs(field, name) if isinstance(field, Tensor) and field.dim() > 0 else field


class PairedLoss(LossFunction):
    """A loss of preference pairs: ``paired_loss`` is given interleaved rows, however the batch lays its pairs out.

    Config: ``pair_layout`` (``"interleaved"``: rows 0, 2, 4, ... chosen, rows 1, 3, 5, ... rejected; ``"halves"``: the
    first half of the rows chosen, the second rejected in the same order, as TRL, Liger and OpenRLHF concatenate them).

    Raises:
        ValueError: an odd number of rows.
        ConfigError: a setting out of range or unknown.
    """

    pair_layout = Setting("interleaved", choices=PAIR_LAYOUTS)

    def paired_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        """Return the loss, a 0-dim tensor, of rows 0, 2, 4, ... chosen and rows 1, 3, 5, ... rejected."""
        raise NotImplementedError(f"{type(self).__name__} must define paired_loss(self, batch, model_outputs)")

    def as_pairs(self, batch: Batch, model_outputs: Outputs) -> tuple[Batch, Outputs]:
        """Return both mappings with interleaved rows: themselves, unless the batch lays its pairs out as halves."""
        if self.pair_layout == "interleaved":
            return batch, model_outputs
        return HalvesAsPairs(batch), HalvesAsPairs(model_outputs)

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        return self.paired_loss(*self.as_pairs(batch, model_outputs))


class RolledReference(ReadOnlyView):
    """A batch whose reference [B, S] speaks at entry t of token t + 1, read as speaking of token t; entry 0 means nothing."""

    def _shown(self, name: str, field: Any, /) -> Any:
        return field.roll(1, dims=1) if name == REFERENCE and isinstance(field, Tensor) and field.dim() > 1 else field


class ReferencedPairsLoss(PairedLoss):
    """A loss of pairs with a reference policy, whose log-probabilities may be those of the next token.

    Config: that of ``PairedLoss``; ``rolled_reference`` (False: entry t of ``reference_policy_logprobs`` [B, S] speaks of
    token t; True: of token t + 1, its last entry meaning nothing, as NeMo RL rolls them for ``DPOLossFn`` and not for its
    policy-gradient losses).
    """

    rolled_reference = Setting(False)

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        if self.rolled_reference:
            reference = {REFERENCE: Field("logprobs", "B S", trainable=False, speaks_of="next")}
            self.contract = refine(self.contract, fields={**self.contract.fields, **reference})

    def as_pairs(self, batch: Batch, model_outputs: Outputs) -> tuple[Batch, Outputs]:
        """Return both mappings with interleaved rows, and the reference speaking of token t at entry t."""
        batch, model_outputs = super().as_pairs(batch, model_outputs)
        return (RolledReference(batch) if self.rolled_reference else batch), model_outputs
