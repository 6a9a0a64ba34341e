"""Unlikelihood: cross entropy, and a push away from tokens the row has already used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from loss_reference.contract import Option
from loss_reference.interface import Batch, Outputs
from loss_reference.log_sums import logsumexp_where
from loss_reference.registry import register
from loss_reference.relevance import unless, where
from loss_reference.settings import Setting
from loss_reference.supervised.contract import SUPERVISED
from loss_reference.supervised.next_token import next_tokens, sampled, trained_logits
from loss_reference.token_level import AGGREGATION_OPTIONS, TokenLevelLoss, refine

__all__ = ["UnlikelihoodLoss", "context_candidates", "log_not", "repeated_ngrams", "unlikelihood"]


def log_not(logits: Tensor) -> Tensor:
    """Return log(1 - p_v) [..., V] for p = softmax(logits), exact also where p_v is next to 1."""
    log_p = logits.log_softmax(dim=-1)
    # Only the likeliest token can pass 1/2; there 1 - p is taken as the sum of all the others.
    top = F.one_hot(logits.argmax(dim=-1), logits.shape[-1]).bool()
    log_rest = logsumexp_where(logits, ~top) - logits.logsumexp(dim=-1)
    return torch.where(top, log_rest.unsqueeze(-1), torch.log1p(-torch.where(top, float("-inf"), log_p).exp()))


def unlikelihood(logits: Tensor, y: Tensor, candidates: Tensor, alpha: float = 1.0) -> Tensor:
    """Return -log p_y - alpha sum over candidates c of log(1 - p_c), p = softmax(logits), one term per token.

    Args:
        logits: [..., V].
        y: token ids [...].
        candidates: bool [..., V], the tokens to push away from.
        alpha: at least 0.
    """
    nll = -sampled(logits.log_softmax(dim=-1), y)
    if alpha == 0:
        return nll
    return nll - alpha * torch.where(candidates, log_not(logits), 0.0).sum(dim=-1)


def context_candidates(y: Tensor, trained: Tensor, vocabulary: int) -> Tensor:
    """Return bool [B, T, V]: the tokens that stand at earlier trained positions of the row, less the target itself.

    Args:
        y: target ids [B, T].
        trained: bool [B, T].
        vocabulary: V.
    """
    position = torch.arange(y.shape[1], device=y.device)
    first = y.new_full((len(y), vocabulary), y.shape[1])  # where each token of the vocabulary is first trained on
    first = first.scatter_reduce(1, y, torch.where(trained, position, y.shape[1]), "amin")
    return (first.unsqueeze(1) < position.unsqueeze(-1)) & ~F.one_hot(y, vocabulary).bool()


def repeated_ngrams(y: Tensor, trained: Tensor, n: int) -> Tensor:
    """Return bool [B, T]: whether the n consecutive trained tokens ending here also stood, all trained, earlier in the row.

    Args:
        y: target ids [B, T].
        trained: bool [B, T].
        n: length, at least 1. The earlier occurrence may overlap this one.
    """
    if y.shape[1] < n:
        return torch.zeros_like(trained)
    ngrams, whole = y.unfold(1, n, 1), trained.unfold(1, n, 1).all(dim=-1)
    same = (ngrams.unsqueeze(2) == ngrams.unsqueeze(1)).all(dim=-1) & whole.unsqueeze(2) & whole.unsqueeze(1)
    return F.pad(same.tril(diagonal=-1).any(dim=-1), (n - 1, 0))


@register("unlikelihood")
class UnlikelihoodLoss(TokenLevelLoss):
    """Unlikelihood: l_t = -log p(y_t) - alpha sum over c in C_t of log(1 - p(c)), y_t the next token.

    Reads ``logits`` [B, S, V], ``input_ids`` and ``token_mask`` [B, S]; optional ``sample_mask`` [B],
    ``global_valid_toks``, ``global_valid_seqs``. Result in nats per token, at least 0; ``nll`` where every C_t is empty
    and for alpha = 0. The model receives gradient: each candidate's probability is pushed down, dl/dp(c) =
    alpha / (1 - p(c)). Tokens that are not trained on are never candidates.

    Config: ``alpha`` (1, at least 0); ``candidates`` (``"context"``: C_t is the set of tokens trained on earlier in the
    row, less y_t; ``"repeated_ngrams"``: C_t is {y_t} where the n-gram that ends with y_t occurred before in the row,
    else empty); ``ngram`` n (4, at least 1, read by ``"repeated_ngrams"`` alone); ``aggregation`` (``"token_mean"``);
    ``max_length`` (above 0, needed by ``"fixed"``). The paper applies ``"repeated_ngrams"`` to sampled continuations and
    without the likelihood; here both options add to the likelihood of the given tokens.

    Raises:
        ValueError: shapes that do not belong together, a token id outside the vocabulary.
        ConfigError: a setting out of range or unknown, ``"fixed"`` without ``max_length``.

    Source: arXiv 1908.04319, section 5.
    """

    contract = refine(
        SUPERVISED,
        length_normalized=False,
        direction={"alpha": +1},
        options={
            **AGGREGATION_OPTIONS,
            "alpha": Option(values=(0.0, 0.5, 1.0), reduces_to={0.0: "nll"}),
            "candidates": Option(values=("context", "repeated_ngrams")),
            "ngram": Option(values=(1, 2, 4)),
        },
    )
    alpha = Setting(1.0, least=0.0)
    candidates = Setting("context", choices=("context", "repeated_ngrams"), read_when=unless("alpha", 0))
    ngram = Setting(4, least=1, read_when=where("candidates", "repeated_ngrams"))

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        self.contract = refine(self.contract, length_normalized=False)  # a token said twice is its own context

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        z, m = trained_logits(batch, model_outputs)
        V = z.shape[-1]
        y, trained = next_tokens(batch, m, V), m != 0
        if self.candidates == "context":
            C = context_candidates(y, trained, V)
        else:
            C = repeated_ngrams(y, trained, self.ngram).unsqueeze(-1) & F.one_hot(y, V).bool()
        return self.reduce(unlikelihood(z, y, C, self.alpha), m, batch)
