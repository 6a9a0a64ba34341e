"""The one masked reduction every loss shares.

With ``w`` the weight of a term and ``l`` its value, a loss is ``sum(w * l) / max(count, 1)``, where the count is of the
whole global batch when the batch carries it (so that the losses of microbatches and ranks *add up*) and of this batch
otherwise. A term of weight 0 contributes nothing whatever it holds, NaN and inf included, in value and in gradient.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from loss_reference.interface import Batch
from loss_reference.shapes import require_shape

__all__ = [
    "AGGREGATIONS",
    "accumulation_dtype",
    "aggregate_tokens",
    "global_count",
    "keep_active",
    "mean_of_rows",
    "mean_of_terms",
    "row_weights",
    "token_weights",
]

AGGREGATIONS: Final = ("token_mean", "seq_mean_token_mean", "seq_mean_token_sum", "fixed")


def row_weights(batch: Batch, like: Tensor) -> Tensor:
    """Return [B] row weights: ``sample_mask`` when the batch has it, ones otherwise. Dtype and device as ``like`` [B, ...].

    Raises:
        ValueError: ``sample_mask`` is not [B].
    """
    sample_mask = batch.get("sample_mask")
    if sample_mask is None:
        return torch.ones(like.shape[0], dtype=accumulation_dtype(like), device=like.device)
    require_shape("sample_mask", sample_mask, (like.shape[0],), "one entry per row")
    return sample_mask.detach().to(accumulation_dtype(like))


def token_weights(batch: Batch, like: Tensor) -> Tensor:
    """Return m[b, t] = token_mask[b, t+1] * sample_mask[b], the [B, S-1] weights of next-token terms.

    Raises:
        ValueError: ``token_mask`` does not have the shape of the tokens ``like`` speaks of.
    """
    token_mask = batch["token_mask"].detach()
    require_shape("token_mask", token_mask, (like.shape[0], like.shape[1] + 1), "one entry per token")
    return token_mask[:, 1:].to(accumulation_dtype(like)) * row_weights(batch, like).unsqueeze(1)


def keep_active(x: Tensor, weights: Tensor) -> Tensor:
    """Return ``x`` with every entry of weight 0 replaced by 0, so that its content reaches neither value nor gradient.

    Apply it to *inputs*, before any exp, log or product: masking a result still sends NaN backwards (0 * inf).
    ``weights`` may lack trailing axes of ``x``. Half precision is widened to float32.
    """
    active = (weights != 0).reshape(weights.shape + (1,) * (x.dim() - weights.dim()))
    return torch.where(active, x, x.new_zeros(())).to(accumulation_dtype(x))


def global_count(batch: Batch, name: str) -> Tensor | None:
    """Return the scalar ``batch[name]``, a count over the whole global batch, or ``None`` when it is not there.

    Raises:
        ValueError: it is not a scalar.
    """
    count = batch.get(name)
    if count is not None:
        require_shape(name, count, (), "one number for the whole global batch")
    return count


def mean_of_terms(terms: Tensor, weights: Tensor, count: Tensor | None) -> Tensor:
    """Return sum(weights * terms) / max(count, 1); ``count=None`` means this batch's own sum of weights."""
    total = torch.where(weights != 0, weights * terms, terms.new_zeros(())).sum()
    divisor = weights.sum() if count is None else count.detach().to(total)
    return total / divisor.clamp(min=1.0)


def mean_of_rows(terms: Tensor, weights: Tensor, batch: Batch) -> Tensor:
    """Return the mean of [B] terms over sequences: divisor ``global_valid_seqs``, or the local sum of weights."""
    return mean_of_terms(terms, weights, global_count(batch, "global_valid_seqs"))


def aggregate_tokens(
    terms: Tensor, weights: Tensor, batch: Batch, aggregation: str = "token_mean", max_length: float | None = None
) -> Tensor:
    """Reduce per-token terms [B, S-1] with weights m to a scalar.

    ===================== ==================================================== ==========================
    aggregation           formula                                              also known as
    ===================== ==================================================== ==========================
    token_mean            sum m l / T_g                                        DAPO, NeMo RL token level
    seq_mean_token_mean   (1 / S_g) sum_b w_b (sum_t m l) / (sum_t m)           GRPO
    seq_mean_token_sum    (1 / S_g) sum_b sum_t m l                            verl seq-mean-token-sum
    fixed                 sum m l / (S_g * max_length)                         Dr. GRPO
    ===================== ==================================================== ==========================

    T_g and S_g are ``global_valid_toks`` and ``global_valid_seqs`` of the batch, or local counts without them.

    Raises:
        ValueError: an unknown aggregation, or ``"fixed"`` without ``max_length``.
    """
    if aggregation == "token_mean":
        return mean_of_terms(terms, weights, global_count(batch, "global_valid_toks"))
    rows = row_weights(batch, terms)
    if aggregation == "seq_mean_token_mean":
        sums = torch.where(weights != 0, weights * terms, terms.new_zeros(())).sum(dim=1)
        n = weights.sum(dim=1)
        return mean_of_rows(sums / torch.where(n != 0, n, 1.0), rows, batch)
    sequences = global_count(batch, "global_valid_seqs")
    mean = mean_of_terms(terms, weights, rows.sum() if sequences is None else sequences)
    if aggregation == "seq_mean_token_sum":
        return mean
    if aggregation == "fixed" and max_length is not None:
        return mean / max_length
    raise ValueError(f"aggregation={aggregation!r}, max_length={max_length!r}; expected one of {AGGREGATIONS}")


def accumulation_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype sums over ``x`` are taken in: its own, and float32 where that is narrower."""
    # Sums over tokens in half precision lose whole terms; everything narrower than float32 is accumulated there.
    return torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype
