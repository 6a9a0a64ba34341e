"""The log-probability of one token per position, without a second copy of the logits kept for the backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from loss_reference.position_chunks import positions_at_once
from loss_reference.reduction import accumulation_dtype, keep_active
from loss_reference.transforms import is_transformed

__all__ = ["sampled_logprob"]


def sampled_logprob(logits: Tensor, targets: Tensor, active: Tensor, chunk_size: int | None = None) -> Tensor:
    """Return lp = (z_y - c) - log sum_v exp(z_v - c), c = max_v z_v, and 0 where not ``active``; in float32 at least.

    The gradient is closed form, d lp / d z_v = [v = y] - softmax(z)_v, so that only the logits as they came and one number
    per position are kept. It can be taken once: the loss has no second derivative with respect to the logits.

    Args:
        logits: z [..., V], of any floating dtype; content of inactive positions reaches neither value nor gradient.
        targets: y [...], token ids inside the vocabulary.
        active: bool [...].
        chunk_size: positions at a time, by default as many as are worked on fastest. Changes memory and speed, not the numbers.
    """
    if is_transformed():  # a compiler fuses the plain formula by itself, and maps of it are known
        log_pi = keep_active(logits, active).log_softmax(dim=-1)
        return keep_active(log_pi.gather(-1, targets.unsqueeze(-1)).squeeze(-1), active)
    chunk_size = positions_at_once(logits) if chunk_size is None else chunk_size
    flat = logits.reshape(-1, logits.shape[-1]), targets.reshape(-1, 1), active.reshape(-1, 1)
    lp: Tensor = _SampledLogprob.apply(*flat, chunk_size)  # type: ignore[no-untyped-call]
    return lp.reshape(targets.shape)


class _SampledLogprob(torch.autograd.Function):
    """z [N, V], y [N, 1], active [N, 1] to lp [N, 1]."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, y: Tensor, active: Tensor, chunk_size: int) -> Tensor:
        wide = accumulation_dtype(z)
        top, log_sum = (torch.empty(active.shape, dtype=wide, device=z.device) for _ in range(2))
        for z_, top_, log_sum_ in zip(*(torch.split(x, chunk_size) for x in (z, top, log_sum)), strict=True):
            top_.copy_(z_.amax(dim=-1, keepdim=True))
            log_sum_.copy_((z_.to(wide) - top_).exp_().sum(dim=-1, keepdim=True).log_())
        ctx.save_for_backward(z, y, active, top, log_sum)
        ctx.chunk_size = chunk_size
        return torch.where(active, z.gather(-1, y).to(wide) - top - log_sum, 0.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        z, y, active, top, log_sum = ctx.saved_tensors
        gradient = torch.empty_like(z)
        upstream = torch.where(active, upstream, 0.0)
        inputs = (gradient, z, y, active, top, log_sum, upstream)
        for d_z, z_, y_, active_, top_, log_sum_, up in zip(
            *(torch.split(x, ctx.chunk_size) for x in inputs), strict=True
        ):
            minus_softmax = (z_.to(top.dtype) - top_).sub_(log_sum_).exp_().mul_(-up)
            d_z.copy_(minus_softmax.scatter_add_(-1, y_, up).masked_fill_(~active_, 0.0))
        return gradient, None, None, None
