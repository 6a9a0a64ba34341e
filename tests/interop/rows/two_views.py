"""Two embeddings of every row: PyTorch, open_clip, lightly, info-nce-pytorch, MONAI, sentence-transformers and transformers."""

from __future__ import annotations

import math
from functools import partial
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loss_reference import LossFunction
from tests.interop.comparison import Row
from tests.interop.inputs import B, D, Draw, Inputs, views

VIEWS = ("image_embeddings", "text_embeddings")
QUERIES, PER_QUERY = 4, 5
Views = partial(Row, inputs=views(*VIEWS))


def queries(dtype: torch.dtype, seed: int) -> Inputs:
    """Draw rows of five: a query, its positive, and three negatives."""
    e = Draw(dtype, seed).normal(QUERIES * PER_QUERY, D).requires_grad_()
    return Inputs({"embeddings": e}, {}, {"embeddings": e})


def units(inputs: Inputs) -> tuple[Tensor, Tensor]:
    x, y = (F.normalize(inputs.leaves[name], dim=1) for name in VIEWS)
    return x, y


def clip(inputs: Inputs) -> Tensor:
    return import_module("open_clip.loss").ClipLoss()(*units(inputs), logit_scale=1 / 0.07)


def siglip(inputs: Inputs) -> Tensor:
    # The parameters of ours start as float32 numbers.
    scale = torch.tensor(math.log(10.0)).to(inputs.leaves[VIEWS[0]]).exp()
    return import_module("open_clip.loss").SigLipLoss()(*units(inputs), scale, torch.tensor(-10.0).to(scale))


def clip_of_transformers(inputs: Inputs) -> Tensor:
    x, y = units(inputs)
    return import_module("transformers.models.clip.modeling_clip").image_text_contrastive_loss(x @ y.T / 0.07)


def of_both_views(module: str, name: str, inputs: Inputs, **settings: Any) -> Tensor:
    loss = getattr(import_module(module), name)(temperature=0.5, **settings)
    return loss(*(inputs.leaves[name] for name in VIEWS))


def as_labelled(loss: LossFunction, inputs: Inputs) -> Tensor:
    stacked = torch.cat([inputs.leaves[name] for name in VIEWS])
    return loss({"labels": torch.arange(B).repeat(2)}, {"embeddings": stacked})


def split(inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries [Q, D], positives [Q, D] and negatives [Q, 3, D]."""
    e = inputs.embeddings.reshape(QUERIES, PER_QUERY, D)
    return e[:, 0], e[:, 1], e[:, 2:]


def info_nce(inputs: Inputs, mode: str) -> Tensor:
    function = import_module("info_nce").info_nce
    query, positive, negatives = split(inputs)
    if mode == "in batch":
        return function(query, positive, temperature=0.2)
    given = negatives if mode == "paired" else negatives.flatten(0, 1)
    return function(query, positive, given, temperature=0.2, negative_mode=mode)


def of_pairs(mode: str, loss: LossFunction, inputs: Inputs) -> Tensor:
    """Return ours of the pairs (query, positive) and (query, each of its negatives)."""
    starts = [q * PER_QUERY for q in range(QUERIES)]
    positive = [(q, q + 1) for q in starts]
    if mode == "in batch":
        negative = [(q, other + 1) for q in starts for other in starts if other != q]
    else:
        owners = {q: [q] if mode == "paired" else starts for q in starts}
        negative = [(q, owner + 2 + k) for q in starts for owner in owners[q] for k in range(PER_QUERY - 2)]
    return loss({"positive_pairs": torch.tensor(positive), "negative_pairs": torch.tensor(negative)}, inputs.outputs)


def ranking(inputs: Inputs) -> Tensor:
    losses = import_module("sentence_transformers.losses")
    query, positive, _ = split(inputs)
    return losses.MultipleNegativesRankingLoss(nn.Identity(), scale=5.0).compute_loss_from_embeddings(
        [query, positive], None
    )


def symmetric_ranking(inputs: Inputs) -> Tensor:
    losses = import_module("sentence_transformers.losses")
    module = losses.MultipleNegativesSymmetricRankingLoss(nn.Identity(), scale=1 / 0.07)
    return module.compute_loss_from_embeddings([inputs.leaves[name] for name in VIEWS], None)


def one_against_one(inputs: Inputs) -> Tensor:
    query, positive, negatives = split(inputs)
    gap = F.cosine_similarity(query, positive) - F.cosine_similarity(query, negatives[:, 0])
    return nn.SoftMarginLoss()(gap / 0.2, torch.ones_like(gap))


def of_first_negatives(loss: LossFunction, inputs: Inputs) -> Tensor:
    starts = torch.arange(QUERIES) * PER_QUERY
    pairs = {
        f"{name}_pairs": torch.stack([starts, starts + k], dim=1) for name, k in (("positive", 1), ("negative", 2))
    }
    return loss(pairs, inputs.outputs)


ROWS = (
    Row(
        "pairwise_contrastive",
        "torch",
        "nn.SoftMarginLoss() of cosine similarities / t",
        queries,
        one_against_one,
        config={"temperature": 0.2},
        ours=of_first_negatives,
    ),
    Views("clip_symmetric", library="open_clip", counterpart="ClipLoss", theirs=clip),
    Views("siglip", library="open_clip", counterpart="SigLipLoss", theirs=siglip),
    Views(
        "clip_symmetric",
        library="transformers",
        counterpart="models.clip image_text_contrastive_loss",
        theirs=clip_of_transformers,
    ),
    Views(
        "clip_symmetric",
        library="sentence_transformers",
        counterpart="MultipleNegativesSymmetricRankingLoss(scale=1 / t)",
        theirs=symmetric_ranking,
    ),
    Views(
        "ntxent",
        library="lightly",
        counterpart="NTXentLoss",
        theirs=partial(of_both_views, "lightly.loss", "NTXentLoss"),
        config={"temperature": 0.5},
        ours=as_labelled,
    ),
    Views(
        "supcon",
        library="lightly",
        counterpart="NTXentLoss",
        theirs=partial(of_both_views, "lightly.loss", "NTXentLoss"),
        config={"temperature": 0.5},
        ours=as_labelled,
        note="one positive per anchor",
    ),
    Views(
        "ntxent",
        library="monai",
        counterpart="ContrastiveLoss",
        theirs=partial(of_both_views, "monai.losses", "ContrastiveLoss"),
        config={"temperature": 0.5},
        ours=as_labelled,
    ),
    *(
        Row(
            "infonce",
            "info_nce",
            shown,
            queries,
            partial(info_nce, mode=mode),
            config={"temperature": 0.2},
            ours=partial(of_pairs, mode),
        )
        for mode, shown in (
            ("paired", 'info_nce(negative_mode="paired")'),
            ("unpaired", 'info_nce(negative_mode="unpaired")'),
            ("in batch", "info_nce() without negatives"),
        )
    ),
    Row(
        "infonce",
        "sentence_transformers",
        "MultipleNegativesRankingLoss(scale=1 / t)",
        queries,
        ranking,
        config={"temperature": 0.2},
        ours=partial(of_pairs, "in batch"),
    ),
)
