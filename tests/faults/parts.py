"""Pieces the planted losses share, so that each shows little more than its mistake."""

from __future__ import annotations

import torch
from torch import Tensor


def token_weights(batch):
    """m[b, t] = token_mask[b, t+1] * sample_mask[b]."""
    m = batch["token_mask"][:, 1:]
    w = batch.get("sample_mask")
    return m if w is None else m * w[:, None]


def row_weights(batch, like):
    w = batch.get("sample_mask")
    return like.new_ones(like.shape[0]) if w is None else w


def kept(x: Tensor, m: Tensor) -> Tensor:
    """x where m is not 0, else 0."""
    while m.dim() < x.dim():
        m = m.unsqueeze(-1)
    return torch.where(m != 0, x, torch.zeros_like(x))


def token_mean(terms, m, batch):
    n = batch.get("global_valid_toks")
    n = m.sum() if n is None else n
    return (kept(terms, m) * m).sum() / n.clamp(min=1)


def row_mean(terms, w, batch):
    n = batch.get("global_valid_seqs")
    n = w.sum() if n is None else n
    return (kept(terms, w) * w).sum() / n.clamp(min=1)


def pair_mean(terms, w, batch):
    n = batch.get("global_valid_seqs")
    n = w.sum() if n is None else n / 2
    return (kept(terms, w) * w).sum() / n.clamp(min=1)


def pairs(rows):
    """(chosen, rejected) of interleaved rows."""
    return rows[0::2], rows[1::2]


def pair_weights(batch, like):
    return torch.minimum(*pairs(row_weights(batch, like)))


def constant(batch, name, m):
    """batch[name] as [B, S-1], 0 where nothing is trained."""
    return kept(batch[name][:, 1:].detach(), m)


def policy(outputs, m):
    return kept(outputs["next_token_logprobs"], m)


def gathered(batch, outputs, m):
    """Log-probability of the next token from the logits."""
    logits = kept(outputs["logits"][:, :-1], m)
    return logits.log_softmax(-1).gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1)


def sequence_ratio(batch, outputs):
    """h[b] = sum_t m (lp - lp_ref)."""
    m = token_weights(batch)
    return (policy(outputs, m) - constant(batch, "reference_policy_logprobs", m)).sum(1)
