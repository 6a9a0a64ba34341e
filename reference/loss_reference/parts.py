"""A term and a weighted part beside it."""

from __future__ import annotations

from torch import Tensor

__all__ = ["with_part"]


def with_part(term: Tensor, weight: float, part: Tensor) -> Tensor:
    """Return term + weight part, of tensors of one shape; both receive gradient, the part none where its weight is 0.

    A part of weight 0 is not taken: 0 times an infinite one, of an answer that a model finds impossible, would be NaN.
    """
    return term if weight == 0 else term + weight * part
