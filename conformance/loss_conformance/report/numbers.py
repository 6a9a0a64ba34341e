"""Numbers and small tensors as a person reads them."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["number", "small_tensor"]


def number(value: Tensor | float) -> str:
    """Return a number with as many digits as tell it apart: ``0.6931``, ``-1.2e-07``, ``nan``."""
    x = float(value)
    return f"{x:.7g}" if x == x and abs(x) != float("inf") else str(x)


def small_tensor(tensor: Tensor, limit: int = 20) -> str:
    """Return a tensor of at most ``limit`` numbers as nested lists, a larger one as its shape and range."""
    if tensor.numel() > limit:
        low, high = (number(t) for t in (tensor.min(), tensor.max()))
        return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)} in [{low}, {high}]"
    return _listed(tensor.detach())


def _listed(tensor: Tensor) -> str:
    if tensor.dim() == 0:
        return f"{float(tensor):.5g}" if tensor.dtype != torch.bool else str(int(tensor))
    return "[" + ",".join(_listed(row) for row in tensor) + "]"
