"""Terms of every position, some positions at a time: what a term needs in between is computed again to differentiate it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from loss_reference.transforms import is_transformed

__all__ = ["chunked_terms", "positions_at_once"]

CACHED: Final = 2**21
"""How many scores a processor widens and exponentiates at a time: about what its cache holds."""
LAUNCHED: Final = 2**26
"""How many an accelerator does: enough to keep it busy."""


def positions_at_once(scores: Tensor) -> int:
    """Return how many positions of ``scores`` [..., V] are worked on at a time when nobody says."""
    return max(1, (CACHED if scores.device.type == "cpu" else LAUNCHED) // max(scores.shape[-1], 1))


def chunked_terms(
    terms: Callable[..., Tensor], scores: Tensor, constants: tuple[Tensor, ...], chunk_size: int | None = None
) -> Tensor:
    """Return ``terms(scores, *constants)`` [...], computed for ``chunk_size`` positions at a time.

    The numbers are those of a single call. Between forward and backward nothing is kept but the arguments, and the
    gradient of ``scores`` is written where it belongs, chunk by chunk. It can be taken once.

    Args:
        terms: from [n, V] scores and [n, ...] constants to [n] terms, each of its own position alone.
        scores: [..., V]; receives gradient.
        constants: [...] or [..., V]; receive none.
        chunk_size: positions at a time, at least 1; by default as many as are worked on fastest.
    """
    if is_transformed():  # a compiler fuses the plain formula by itself, and maps of it are known
        return terms(scores, *(x.detach() for x in constants))
    chunk_size = positions_at_once(scores) if chunk_size is None else chunk_size
    positions = scores.shape[:-1]
    flat = [x.detach().reshape(positions.numel(), *x.shape[len(positions) :]) for x in constants]
    found: Tensor = _ChunkedTerms.apply(terms, chunk_size, scores.reshape(positions.numel(), -1), *flat)  # type: ignore[no-untyped-call]
    return found.reshape(positions)


class _ChunkedTerms(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, terms: Callable[..., Tensor], chunk_size: int, z: Tensor, *constants: Tensor) -> Tensor:
        ctx.terms, ctx.chunk_size = terms, chunk_size
        ctx.save_for_backward(z, *constants)
        chunks = zip(*(torch.split(x, chunk_size) for x in (z, *constants)), strict=True)
        return torch.cat([terms(*chunk) for chunk in chunks])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        z, *constants = ctx.saved_tensors
        gradient = torch.empty_like(z)
        inputs = (gradient, upstream, z, *constants)
        for d_z, up, z_, *others in zip(*(torch.split(x, ctx.chunk_size) for x in inputs), strict=True):
            with torch.enable_grad():
                leaf = z_.detach().requires_grad_()
                d_z.copy_(torch.autograd.grad(ctx.terms(leaf, *others), leaf, up)[0])
        return None, None, gradient, *(None for _ in constants)
