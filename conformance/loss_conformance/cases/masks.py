"""Which tokens are trained on, and what each row weighs."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["row_weights", "token_mask"]


def token_mask(style: str, rows: int, tokens: int, generator: torch.Generator) -> Tensor:
    """Return a [rows, tokens] bool mask; token 0 predicts nothing and is never trained on.

    Every style but ``"none"`` trains on at least one token of the first row; ``"holes"`` leaves one out between two.
    """
    position = torch.arange(tokens).expand(rows, tokens)
    if style == "full":
        mask = torch.ones(rows, tokens, dtype=torch.bool)
    elif style == "none":
        mask = torch.zeros(rows, tokens, dtype=torch.bool)
    elif style == "holes":
        mask = torch.rand(rows, tokens, generator=generator) < 0.6
        # Chance alone often leaves none inside a row.
        mask[0, 1:4] = torch.tensor([True, False, True])[: tokens - 1]
    else:
        length = torch.randint(2, tokens + 1, (rows, 1), generator=generator)
        length[torch.randint(rows, (1,), generator=generator)] = tokens
        start = torch.zeros(rows, 1, dtype=torch.int64)
        if style == "prompt":
            start = (torch.rand(rows, 1, generator=generator) * length).long()
        mask = (position >= start) & (position < length)
        mask = mask.flip(1) if style == "left" else mask
    mask = mask.clone()
    mask[:, 0] = False
    if style != "none" and not bool(mask[0].any()):
        mask[0, tokens - 1] = True
    return mask


def row_weights(style: str, rows: int, generator: torch.Generator) -> Tensor:
    """Return [rows] weights: all 1 (``"ones"``), some 0, ``"fractions"`` with the last 0 and others 1/2, or ``"none"``.

    The first row keeps a positive weight except for ``"none"``.
    """
    if style == "none":
        return torch.zeros(rows, dtype=torch.float64)
    weights = torch.ones(rows, dtype=torch.float64)
    if style == "some" and rows > 1:
        weights[1 + int(torch.randint(rows - 1, (1,), generator=generator))] = 0.0
    if style == "fractions" and rows > 1:
        weights = torch.tensor([0.0, 0.5, 1.0, 1.5], dtype=torch.float64)[
            torch.randint(4, (rows,), generator=generator)
        ]
        weights[0], weights[-1] = 1.0, 0.0
    return weights
