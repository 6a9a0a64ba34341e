"""Log-probabilities of the tokens that were sampled."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from loss_reference.interface import Batch, Outputs
from loss_reference.reduction import keep_active, token_weights
from loss_reference.sampled_logprob import sampled_logprob
from loss_reference.shapes import is_readable, require_shape

__all__ = ["next_token_logprobs", "require_inside_vocabulary", "token_constant", "trained_logprobs"]


def trained_logprobs(batch: Batch, model_outputs: Outputs, chunk_size: int | None = None) -> tuple[Tensor, Tensor]:
    """Return (lp, m), both [B, S-1]: the log-probability of the next token, and its weight in the loss.

    lp is 0 where m is 0. Arguments and errors as in ``next_token_logprobs``.
    """
    tokens = tuple(batch["token_mask"].shape)
    beside = f"beside token_mask of shape {tokens}"
    like = model_outputs.get("next_token_logprobs")
    if like is not None:
        require_shape("next_token_logprobs", like, (*tokens[:-1], max(tokens[-1] - 1, 0)), beside)
    elif "logits" in model_outputs:
        require_shape("logits", model_outputs["logits"], (*tokens, "V"), beside)
        like = model_outputs["logits"][:, :-1, 0]
    else:
        raise KeyError("model_outputs needs 'next_token_logprobs' or 'logits'")
    m = token_weights(batch, like)
    return next_token_logprobs(batch, model_outputs, m, chunk_size), m


def next_token_logprobs(batch: Batch, model_outputs: Outputs, weights: Tensor, chunk_size: int | None = None) -> Tensor:
    """Return lp[b, t] = log pi(input_ids[b, t+1] | input_ids[b, :t+1]) as [B, S-1], 0 where ``weights`` are 0.

    Takes ``model_outputs["next_token_logprobs"]`` when it is there, otherwise computes it from ``logits`` [B, S, V] and
    ``input_ids`` [B, S]: lp = log softmax(logits)[y], the softmax taken over ``chunk_size`` positions at a time (see
    ``sampled_logprob``). Receives gradient.

    Raises:
        KeyError: neither ``next_token_logprobs`` nor ``logits`` is given.
        ValueError: shapes that do not belong together, or a token id outside the vocabulary.
    """
    given = model_outputs.get("next_token_logprobs")
    if given is not None:
        require_shape("next_token_logprobs", given, tuple(weights.shape))
        return keep_active(given, weights)
    if "logits" not in model_outputs:
        raise KeyError("model_outputs needs 'next_token_logprobs' or 'logits'")
    rows, positions = weights.shape
    logits, input_ids = model_outputs["logits"], batch["input_ids"]
    require_shape("logits", logits, (rows, positions + 1, "V"))
    require_shape("input_ids", input_ids, (rows, positions + 1))
    targets = torch.where(weights != 0, input_ids[:, 1:], 0).long()
    require_inside_vocabulary("input_ids", targets, logits.shape[-1])
    # The last position predicts nothing; leaving it out of the logits would copy them.
    targets, active = F.pad(targets, (0, 1)), F.pad(weights != 0, (0, 1))
    return sampled_logprob(logits, targets, active, chunk_size)[:, :-1]


def token_constant(batch: Batch, name: str, weights: Tensor) -> Tensor:
    """Return ``batch[name]`` [B, S] as the constant [B, S-1] that speaks of next tokens, 0 where ``weights`` are 0.

    Raises:
        KeyError: no such field.
        ValueError: it is not [B, S].
    """
    rows, positions = weights.shape
    require_shape(name, batch[name], (rows, positions + 1), "one entry per token")
    return keep_active(batch[name].detach()[:, 1:], weights).to(weights.dtype)


def require_inside_vocabulary(name: str, token_ids: Tensor, vocabulary: int) -> None:
    """Refuse token ids outside [0, vocabulary).

    Raises:
        ValueError: quotes the field, the id and the size of the vocabulary.
    """
    if not is_readable(token_ids):  # the gather that follows refuses such an id itself, only less helpfully
        return
    lowest, highest = int(token_ids.min()), int(token_ids.max())
    if lowest < 0 or highest >= vocabulary:
        wrong = lowest if lowest < 0 else highest
        raise ValueError(f"{name} holds token id {wrong}, outside the vocabulary of {vocabulary} logits")
