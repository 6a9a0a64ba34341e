"""Sums of exponentials over a part of an axis, in log space."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["logsumexp_where", "sole_infinite"]


def logsumexp_where(x: Tensor, counted: Tensor) -> Tensor:
    """Return log of the sum of e^x over the entries ``counted`` along the last axis; -inf, with gradient 0, for no entry.

    Args:
        x: [..., N]; an entry of -inf adds nothing, beside one of inf no other does.
        counted: bool, of the shape of ``x``.
    """
    infinite = counted & (x == torch.inf)
    counted = counted & (x != -torch.inf) & ~infinite
    some = counted.any(dim=-1, keepdim=True)
    # The gradient of an empty sum would be NaN on its way back, even where nothing uses it; so would that of an infinite one.
    terms = torch.where(some, torch.where(counted, x, -torch.inf), 0.0)
    finite = torch.where(some.squeeze(-1), terms.logsumexp(dim=-1), -torch.inf)
    return torch.where(infinite.any(dim=-1), torch.where(infinite, x, 0.0).sum(dim=-1), finite)


def sole_infinite(x: Tensor, counted: Tensor) -> Tensor:
    """Return whether exactly one of the ``counted`` entries of ``x`` [..., N] is inf: it has the whole of their softmax."""
    return (counted & (x == torch.inf)).sum(dim=-1) == 1
