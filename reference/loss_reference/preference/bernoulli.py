"""The divergence of two coins."""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["bernoulli_kl"]

SURE: Final = 1e3
"""sigma(-1000) is 0 in float64: a larger logit changes no digit, and an infinite one would multiply that 0 by inf."""


def bernoulli_kl(x: Tensor, log_q: Tensor | float, log_not_q: Tensor | float) -> Tensor:
    """Return KL(Bern(sigma(x)), Bern(q)) = sigma(x) (log sigma(x) - log q) + sigma(-x) (log sigma(-x) - log(1 - q)).

    Args:
        x: logit of the first coin.
        log_q, log_not_q: log q and log(1 - q) of the second.
    """
    x = x.clamp(-SURE, SURE)
    return torch.sigmoid(x) * (F.logsigmoid(x) - log_q) + torch.sigmoid(-x) * (F.logsigmoid(-x) - log_not_q)
