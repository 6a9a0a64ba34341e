"""Losses of routers, functions of nothing but what a gate gives: bare, they are known by the names of their arguments."""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from loss_reference import Contract, Field
from tests.faults.fault import Fault

__all__ = ["FAULTS"]


def _shares(router_logits: Tensor, attention_mask: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Return [E] shares of tokens per expert, and [E] mean probabilities of experts, over the tokens there are."""
    kept = attention_mask != 0
    logits = torch.where(kept.unsqueeze(-1), router_logits, 0.0)
    experts = logits.shape[-1]
    chosen = F.one_hot(logits.topk(min(top_k, experts), dim=-1).indices, experts).sum(-2)
    weights = attention_mask.to(logits).unsqueeze(-1)
    tokens = weights.sum().clamp(min=1)
    share = (chosen * weights).sum((0, 1)) / (tokens * min(top_k, experts))
    return share, (logits.softmax(-1) * weights).sum((0, 1)) / tokens


def load_by_expert(router_logits: Tensor, attention_mask: Tensor, top_k: int = 2) -> Tensor:
    share, probabilities = _shares(router_logits, attention_mask, top_k)
    return len(share) * (share * probabilities).sum()


def load_of_all_with_all(router_logits: Tensor, attention_mask: Tensor, top_k: int = 2) -> Tensor:
    share, probabilities = _shares(router_logits, attention_mask, top_k)
    return len(share) * (share.unsqueeze(-1) * probabilities).sum()


def z_of_tokens(router_logits: Tensor, attention_mask: Tensor) -> Tensor:
    logits = torch.where((attention_mask != 0).unsqueeze(-1), router_logits, 0.0)
    terms = logits.logsumexp(-1).square()
    return torch.where(attention_mask != 0, terms, 0.0).sum() / attention_mask.sum().clamp(min=1)


def z_of_padding_too(router_logits: Tensor, attention_mask: Tensor) -> Tensor:
    return router_logits.logsumexp(-1).square().mean() + 0.0 * attention_mask.sum()


ROUTER: Final = Contract(
    family="auxiliary",
    coupled=True,
    lower_bound=0.0,
    fields={
        "router_logits": Field(role="logits", shape="B S V", trainable=True),
        "attention_mask": Field(role="mask", shape="B S"),
    },
)

FAULTS = (
    Fault(
        "X480",
        "shares [E, 1] meet probabilities [E]: the sum of all products is a constant",
        "mindspore-ai/hyper-parallel#752",
        load_of_all_with_all,
        load_by_expert,
        ("gradient_flow",),
        ROUTER,
    ),
    Fault(
        "X481",
        "the z-loss of a router is a mean over padding too",
        "",
        z_of_padding_too,
        z_of_tokens,
        ("masking",),
        ROUTER,
    ),
)
