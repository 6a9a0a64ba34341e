"""The policy's whole distribution over the vocabulary, for losses of pairs that need more than the sampled token."""

from __future__ import annotations

import torch
from torch import Tensor

from loss_reference.interface import Batch, Outputs
from loss_reference.logprobs import require_inside_vocabulary
from loss_reference.pairs import pair_weights
from loss_reference.reduction import keep_active, row_weights, token_weights
from loss_reference.shapes import require_shape

__all__ = ["next_token_distribution", "of_sampled"]


def next_token_distribution(batch: Batch, model_outputs: Outputs) -> tuple[Tensor, Tensor]:
    """Return (log pi, m): log softmax of ``logits`` [B, S, V] as [B, S-1, V], uniform where the weight m [B, S-1] is 0.

    m is 0 in both rows of a pair (2i, 2i+1) one of which weighs nothing: neither reaches the loss.

    Raises:
        KeyError: no ``logits``.
        ValueError: an odd number of rows, or ``logits`` and ``token_mask`` do not belong together.
    """
    logits = model_outputs["logits"]
    require_shape("logits", logits, (*batch["token_mask"].shape, "V"), "V scores per entry of token_mask")
    m = token_weights(batch, logits[:, :-1, 0])
    active = pair_weights(row_weights(batch, m)).repeat_interleave(2).unsqueeze(1) != 0
    m = torch.where(active, m, 0.0)
    return keep_active(logits[:, :-1], m).log_softmax(dim=-1), m


def of_sampled(log_pi: Tensor, batch: Batch, weights: Tensor) -> Tensor:
    """Return [B, S-1]: the entry of ``log_pi`` [B, S-1, V] for the next token of ``input_ids``, 0 where ``weights`` are 0.

    Raises:
        KeyError: no ``input_ids``.
        ValueError: ``input_ids`` is not [B, S], or holds a token outside the vocabulary.
    """
    rows, positions, vocabulary = log_pi.shape
    require_shape("input_ids", batch["input_ids"], (rows, positions + 1), "one entry per token")
    targets = torch.where(weights != 0, batch["input_ids"][:, 1:], 0).long()
    require_inside_vocabulary("input_ids", targets, vocabulary)
    return keep_active(log_pi.gather(-1, targets.unsqueeze(-1)).squeeze(-1), weights)
