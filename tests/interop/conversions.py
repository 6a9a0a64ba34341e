"""What several rows do to our loss before it equals theirs."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from loss_reference import LossFunction
from tests.interop.comparison import as_given
from tests.interop.inputs import B, Inputs, next_logprobs

FROM_HALVES: Final = torch.arange(B).reshape(2, -1).T.flatten()
FROM_THIRDS: Final = torch.arange(B).reshape(3, -1).T.flatten()
ONE_NLL: Final = "the NLL is one mean over the tokens of all chosen answers, ours one mean per answer"


def times(factor: float, loss: LossFunction, inputs: Inputs) -> Tensor:
    """Return ``factor`` times ours."""
    return factor * as_given(loss, inputs)


def reordered(order: Tensor, loss: LossFunction, inputs: Inputs) -> Tensor:
    """Return ours of the rows in another order: neighbours where theirs are halves or thirds of the batch."""
    mappings = ({name: x[order] for name, x in fields.items()} for fields in (inputs.batch, inputs.outputs))
    return loss(*mappings)


def with_one_nll(weight: float, span: str, loss: LossFunction, inputs: Inputs) -> Tensor:
    """Return ours with the mean over all tokens of all chosen answers in the place of one mean per answer.

    Args:
        weight: of the NLL within the loss.
        span: ``"response"``, or ``"full"`` for prompt and response.
        loss: ours, of pairs laid out as halves.
        inputs: theirs.
    """
    half = slice(0, B // 2)
    lp = next_logprobs(inputs.logits, inputs.input_ids)[half]
    m = (inputs.m if span == "response" else inputs.attention_mask[:, 1:].to(lp))[half]
    per_answer = -((lp * m).sum(dim=1) / m.sum(dim=1)).mean()
    return as_given(loss, inputs) - weight * (per_answer + (lp * m).sum() / m.sum())
