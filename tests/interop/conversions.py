"""What several rows do to our loss before it equals theirs."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from loss_reference import LossFunction
from tests.interop.comparison import as_given
from tests.interop.inputs import B, Inputs

FROM_HALVES: Final = torch.arange(B).reshape(2, -1).T.flatten()
FROM_THIRDS: Final = torch.arange(B).reshape(3, -1).T.flatten()


def times(factor: float, loss: LossFunction, inputs: Inputs) -> Tensor:
    """Return ``factor`` times ours."""
    return factor * as_given(loss, inputs)


def reordered(order: Tensor, loss: LossFunction, inputs: Inputs) -> Tensor:
    """Return ours of the rows in another order: neighbours where theirs are halves or thirds of the batch."""
    mappings = ({name: x[order] for name, x in fields.items()} for fields in (inputs.batch, inputs.outputs))
    return loss(*mappings)
