"""The scores a reward model gives to rows and to pairs of rows, and constants that come with them."""

from __future__ import annotations

from torch import Tensor

from loss_reference.interface import Batch, Outputs
from loss_reference.pairs import pair_weights, split_pairs
from loss_reference.reduction import keep_active, row_weights
from loss_reference.shapes import require_shape

__all__ = ["pair_constant", "pair_scores", "row_constant", "row_scores"]


def row_scores(batch: Batch, model_outputs: Outputs) -> tuple[Tensor, Tensor]:
    """Return (r, w), each [B]: ``model_outputs["rewards"]``, 0 in a row of weight 0, and the row weights.

    Raises:
        ValueError: ``rewards`` are not [B], ``sample_mask`` is not [B].
    """
    rewards = model_outputs["rewards"]
    require_shape("rewards", rewards, ("B",), "one score per row")
    w = row_weights(batch, rewards)
    return keep_active(rewards, w), w


def row_constant(batch: Batch, name: str, weights: Tensor) -> Tensor:
    """Return ``batch[name]`` [B] as a constant, 0 where ``weights`` [B] are 0.

    Raises:
        KeyError: no such field.
        ValueError: it is not [B].
    """
    require_shape(name, batch[name], tuple(weights.shape), "one entry per row")
    return keep_active(batch[name].detach(), weights).to(weights.dtype)


def pair_scores(batch: Batch, model_outputs: Outputs) -> tuple[Tensor, Tensor, Tensor]:
    """Return (r_w, r_l, w): the scores [B/2] of chosen and rejected rows, 0 in a pair of weight 0, and row weights [B].

    Raises:
        ValueError: an odd number of rows, ``rewards`` or ``sample_mask`` not [B].
    """
    rewards = model_outputs["rewards"]
    require_shape("rewards", rewards, ("B",), "one score per row")
    r_w, r_l = split_pairs(rewards, "rewards")
    w = row_weights(batch, rewards)
    active = pair_weights(w)
    return keep_active(r_w, active), keep_active(r_l, active), w


def pair_constant(batch: Batch, name: str, weights: Tensor) -> Tensor:
    """Return [B/2]: ``batch[name]`` [B] at the chosen rows as a constant, 0 in a pair of weight 0.

    What stands at the rejected rows is not read. ``weights`` are those of the rows, [B].

    Raises:
        KeyError: no such field.
        ValueError: it is not [B].
    """
    require_shape(name, batch[name], tuple(weights.shape), "one entry per row, read at the chosen one")
    chosen, _ = split_pairs(batch[name].detach())
    return keep_active(chosen, pair_weights(weights)).to(weights.dtype)
