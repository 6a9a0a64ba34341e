"""Whether a loss is being run as it is, or a compiler or a function transform looks at what it does."""

from __future__ import annotations

import torch

__all__ = ["is_transformed"]


def is_transformed() -> bool:
    """Return whether torch.compile or torch.func is at work: they take the plain formula, and content cannot be read."""
    return torch.compiler.is_compiling() or bool(torch._C._are_functorch_transforms_active())
