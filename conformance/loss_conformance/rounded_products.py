"""Products and sums rounded to half precision, in numbers wide enough to see what that alone does to a result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["PRODUCTS", "SUMS", "OperationsSeen", "RoundedProducts"]

PRODUCTS: Final = ("mm", "bmm", "addmm", "addbmm", "baddbmm", "addmv", "mv", "dot", "convolution")
"""Operations that autocast carries out in half precision whatever their inputs are."""
SUMS: Final = ("sum", "mean", "linalg_vector_norm", "_cdist_forward")
"""Operations with one rounding for many terms, where their inputs are in half precision."""


class RoundedProducts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, inputs and result of every matrix product move by one rounding, up or down at random.

    Args:
        eps: unit roundoff of the precision they would be computed in.
        seed: of the directions.
        operations: the names of the operations, matrix products unless others are given.
    """

    def __init__(self, eps: float, seed: int, operations: tuple[str, ...] = PRODUCTS) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.eps, self.operations = eps, operations
        self.generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.overloadpacket.__name__ not in self.operations:
            return func(*args, **(kwargs or {}))
        return self._rounded(func(*map(self._rounded, args), **(kwargs or {})))

    def _rounded(self, x: Any) -> Any:
        if not isinstance(x, Tensor) or not x.is_floating_point():
            return x
        sign = torch.randint(2, x.shape, generator=self.generator) * 2 - 1
        return x * (1 + sign.to(x.dtype) * self.eps / 2)


class OperationsSeen(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, notes the name of every operation torch carries out."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.names.add(getattr(func, "overloadpacket", func).__name__)
        return func(*args, **(kwargs or {}))
