"""How likely an order of answers is when they are drawn by their scores, one after the other."""

from __future__ import annotations

import torch
from torch import Tensor

from loss_reference.log_sums import logsumexp_where, sole_infinite

__all__ = ["plackett_luce"]


def plackett_luce(r: Tensor, true: Tensor) -> Tensor:
    """Return -log of the probability that drawing by softmax(r) without replacement gives the true order, per group.

    That is the sum over k of log(sum_{j >= k} e^(r_(j))) - r_(k), with r_(1), r_(2), ... the predicted scores in
    descending order of the true ones.

    Args:
        r: predicted scores [..., K].
        true: rewards [..., K]; of equal ones the earlier stands first.
    """
    r = r.gather(-1, true.argsort(dim=-1, descending=True, stable=True))
    K = r.shape[-1]
    remaining = torch.ones(K, K, dtype=torch.bool, device=r.device).triu()
    left = r.unsqueeze(-2).expand(*r.shape, K)
    certain = (r == torch.inf) & sole_infinite(left, remaining)  # its term would be inf - inf
    terms = torch.where(certain, 0.0, logsumexp_where(left, remaining) - r)
    # The last is drawn with certainty, even where its score is -inf and its term would be inf - inf.
    return terms[..., :-1].sum(dim=-1)
