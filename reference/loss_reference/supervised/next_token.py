"""Where supervised losses take the distribution of the next token from, and what that token was."""

from __future__ import annotations

from torch import Tensor

from loss_reference.interface import Batch, Outputs
from loss_reference.logprobs import require_inside_vocabulary
from loss_reference.reduction import keep_active, token_weights
from loss_reference.shapes import require_shape

__all__ = ["next_tokens", "sampled", "trained_logits"]


def trained_logits(batch: Batch, model_outputs: Outputs) -> tuple[Tensor, Tensor]:
    """Return (z, m): the logits of the next token [B, S-1, V], and its weight in the loss [B, S-1].

    z is 0 where m is 0, and receives gradient.

    Raises:
        KeyError: no ``logits``.
        ValueError: shapes that do not belong together.
    """
    logits = model_outputs["logits"]
    require_shape("logits", logits, (*batch["token_mask"].shape, "V"), "V scores per entry of token_mask")
    m = token_weights(batch, logits[:, :-1, 0])
    return keep_active(logits[:, :-1], m), m


def next_tokens(batch: Batch, weights: Tensor, vocabulary: int) -> Tensor:
    """Return y [B, S-1] = input_ids[:, 1:], 0 where ``weights`` are 0.

    Raises:
        ValueError: ``input_ids`` are not [B, S], or hold a token outside the vocabulary.
    """
    rows, positions = weights.shape
    require_shape("input_ids", batch["input_ids"], (rows, positions + 1), "one token per entry of token_mask")
    y = keep_active(batch["input_ids"][:, 1:], weights).long()
    require_inside_vocabulary("input_ids", y, vocabulary)
    return y


def sampled(x: Tensor, y: Tensor) -> Tensor:
    """Return x[..., y], the entry of each distribution [..., V] that belongs to its token y [...]."""
    return x.gather(-1, y.unsqueeze(-1)).squeeze(-1)
