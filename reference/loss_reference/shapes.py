"""Checks of what arrives: a tensor of the wrong shape is refused by name, never broadcast."""

from __future__ import annotations

from torch import Tensor

from loss_reference.transforms import is_transformed

__all__ = ["is_readable", "require_shape"]


def is_readable(x: Tensor) -> bool:
    """Return whether looking at the content of ``x`` is free: it stalls an accelerator and breaks a compiled graph."""
    return x.device.type == "cpu" and not is_transformed() and x.numel() > 0


def require_shape(name: str, tensor: Tensor, expected: tuple[int | str, ...], why: str = "") -> None:
    """Refuse a tensor whose shape is not ``expected``; a letter stands for any size: ``(4, 6, "V")``.

    Raises:
        ValueError: quotes the field, its shape, the expected shape and the reason.
    """
    given = tuple(tensor.shape)
    if len(given) == len(expected) and all(
        isinstance(size, str) or size == actual for size, actual in zip(expected, given, strict=True)
    ):
        return
    sizes = ", ".join(map(str, expected)) + ("," if len(expected) == 1 else "")
    raise ValueError(f"{name} has shape {given}; expected ({sizes}){', ' + why if why else ''}")
