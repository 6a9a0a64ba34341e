"""Which accelerator a run uses."""

from __future__ import annotations

import torch

__all__ = ["real_device"]


def real_device(asked: str) -> torch.device | None:
    """Return the accelerator to compare with, or ``None`` to simulate one.

    Args:
        asked: ``"auto"`` takes the accelerator of this machine if it has one, ``"cpu"`` none, anything else names it.

    Raises:
        ValueError: the device asked for does not exist here. Says which do.
    """
    if asked == "cpu":
        return None
    available = torch.accelerator.is_available()
    if asked == "auto":
        return torch.accelerator.current_accelerator() if available else None
    try:
        torch.empty(1, device=asked)
    except (RuntimeError, AssertionError) as error:
        there = str(torch.accelerator.current_accelerator()) if available else "cpu only"
        raise ValueError(
            f"--loss-device {asked!r} cannot be used here ({there}): {str(error).splitlines()[0]}"
        ) from None
    return torch.device(asked)
