"""One position with logits of one's choice and its next token, and the losses given to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from loss_reference import registry
from tests.reference.cases import Tensors, value_and_gradient

Config = dict[str, Any] | None


def of_logits(logits: Sequence[float], y: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensors, Tensors]:
    """Return a row of two tokens whose first position has these logits and whose second token is ``y``."""
    batch = {"input_ids": torch.tensor([[0, y]]), "token_mask": torch.tensor([[0.0, 1.0]], dtype=dtype)}
    return batch, {"logits": torch.tensor([[list(logits), [7.0] * len(logits)]], dtype=dtype)}


def at_logits(name: str, logits: Sequence[float], config: Config = None, **kwargs: Any) -> tuple[float, Tensor]:
    """Return the loss of one position and its gradient with respect to those logits."""
    batch, outputs = of_logits(logits, **kwargs)
    value, gradient = value_and_gradient(registry.create(name, config), batch, outputs, "logits")
    assert gradient[0, 1].abs().sum() == 0
    return value.item(), gradient[0, 0]


def at_logprob(
    name: str, lp: float, config: Config = None, dtype: torch.dtype = torch.float64, **extra: Tensor
) -> tuple[float, float]:
    """Return the loss of one token of log-probability ``lp`` and its slope."""
    batch = {"token_mask": torch.tensor([[0.0, 1.0]], dtype=dtype), **extra}
    outputs = {"next_token_logprobs": torch.tensor([[lp]], dtype=dtype)}
    value, gradient = value_and_gradient(registry.create(name, config), batch, outputs, "next_token_logprobs")
    return value.item(), gradient.item()
