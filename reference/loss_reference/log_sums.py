"""Sums of exponentials over a part of an axis, in log space."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["logsumexp_where"]


def logsumexp_where(x: Tensor, counted: Tensor) -> Tensor:
    """Return log of the sum of e^x over the entries ``counted`` along the last axis; -inf, with gradient 0, for no entry.

    Args:
        x: [..., N]; an entry of -inf adds nothing.
        counted: bool, of the shape of ``x``.
    """
    counted = counted & (x > float("-inf"))
    some = counted.any(dim=-1, keepdim=True)
    # The gradient of an empty sum would be NaN on its way back, even where nothing uses it.
    terms = torch.where(some, torch.where(counted, x, float("-inf")), 0.0)
    return torch.where(some.squeeze(-1), terms.logsumexp(dim=-1), float("-inf"))
