"""PyTorch Metric Learning: losses of labelled embeddings, with its distances and reducers."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from loss_reference import LossFunction
from tests.interop.comparison import Row
from tests.interop.inputs import B, Inputs, embeddings, views

Labelled = partial(Row, library="pytorch_metric_learning", inputs=embeddings)
TRIPLET = ("anchor_embeddings", "positive_embeddings", "negative_embeddings")
Triplets = partial(Row, library="pytorch_metric_learning", inputs=views(*TRIPLET))
N_PAIRS = ("anchor_embeddings", "positive_embeddings")
MARGINS = {"positive_margin": 0.3, "negative_margin": 2.5}


def part(module: str, name: str, **settings: Any) -> Any:
    return getattr(import_module(f"pytorch_metric_learning.{module}"), name)(**settings)


def of_labels(inputs: Inputs, name: str, **settings: Any) -> Tensor:
    return part("losses", name, **settings)(inputs.embeddings, inputs.labels)


def of_triplets(inputs: Inputs, reducer: str = "", normalize: bool = False, **settings: Any) -> Tensor:
    settings["distance"] = part("distances", "LpDistance", normalize_embeddings=normalize)
    if reducer:
        settings["reducer"] = part("reducers", reducer)
    rows = torch.arange(3 * B).reshape(3, B)
    stacked = torch.cat([inputs.leaves[name] for name in TRIPLET])
    return part("losses", "TripletMarginLoss", **settings)(stacked, indices_tuple=tuple(rows))


def of_n_pairs(inputs: Inputs, normalize: bool) -> Tensor:
    distance = part("distances", "DotProductSimilarity", normalize_embeddings=normalize)
    stacked = torch.cat([inputs.leaves[name] for name in N_PAIRS])
    return part("losses", "NPairsLoss", distance=distance)(stacked, torch.arange(B).repeat(2))


def contrastive(inputs: Inputs, reducer: str) -> Tensor:
    distance = part("distances", "LpDistance", normalize_embeddings=False)
    loss = part("losses", "ContrastiveLoss", pos_margin=0.3, neg_margin=2.5, distance=distance)
    loss.reducer = part("losses", "ContrastiveLoss", reducer=part("reducers", reducer)).reducer
    return loss(inputs.embeddings, inputs.labels)


def all_pairs(inputs: Inputs) -> dict[str, Tensor]:
    """Return every ordered pair of one label, and every ordered pair of two."""
    same = inputs.labels.unsqueeze(1) == inputs.labels
    others = ~torch.eye(len(same), dtype=torch.bool)
    return {"positive_pairs": (same & others).nonzero(), "negative_pairs": (~same).nonzero()}


def of_all_pairs(loss: LossFunction, inputs: Inputs) -> Tensor:
    return loss(all_pairs(inputs), inputs.outputs)


def of_violating_pairs(loss: LossFunction, inputs: Inputs) -> Tensor:
    """Return ours of the pairs whose hinge is above 0 alone."""
    pairs = all_pairs(inputs)
    length = {
        name: (inputs.embeddings[i] - inputs.embeddings[j]).norm(dim=1)
        for name, (i, j) in ((name, ij.unbind(dim=1)) for name, ij in pairs.items())
    }
    violating = {"positive_pairs": length["positive_pairs"] > 0.3, "negative_pairs": length["negative_pairs"] < 2.5}
    return loss({name: ij[violating[name]] for name, ij in pairs.items()}, inputs.outputs)


def of_unit_vectors(loss: LossFunction, inputs: Inputs) -> Tensor:
    return loss({}, {name: F.normalize(x, dim=1) for name, x in inputs.outputs.items()})


def of_one_view(loss: LossFunction, inputs: Inputs) -> Tensor:
    """Return ours of anchors and the others of their label, each pair against the rows of other labels."""
    return loss(all_pairs(inputs), inputs.outputs)


NONZERO = "pairs whose hinge is above 0 alone are averaged, ours averages all"

ROWS = (
    Labelled(
        "ntxent",
        counterpart="NTXentLoss(temperature=0.2)",
        theirs=partial(of_labels, name="NTXentLoss", temperature=0.2),
        config={"temperature": 0.2},
    ),
    Labelled(
        "infonce",
        counterpart="NTXentLoss(temperature=0.2)",
        theirs=partial(of_labels, name="NTXentLoss", temperature=0.2),
        config={"temperature": 0.2},
        ours=of_one_view,
        note="positive pairs are those of one label, negative pairs the others",
    ),
    Labelled(
        "supcon",
        counterpart="SupConLoss(temperature=0.3)",
        theirs=partial(of_labels, name="SupConLoss", temperature=0.3),
        config={"temperature": 0.3},
        note="terms that are exactly 0 are not averaged there",
    ),
    Labelled(
        "circle",
        counterpart="CircleLoss(m=0.25, gamma=5)",
        theirs=partial(of_labels, name="CircleLoss", m=0.25, gamma=5),
        config={"margin": 0.25, "gamma": 5.0},
    ),
    Labelled(
        "multi_similarity",
        counterpart="MultiSimilarityLoss(alpha=2, beta=10, base=0.5)",
        theirs=partial(of_labels, name="MultiSimilarityLoss", alpha=2, beta=10, base=0.5),
        config={"beta": 10.0},
    ),
    Row(
        "n_pairs",
        "pytorch_metric_learning",
        "NPairsLoss(distance=DotProductSimilarity(normalize_embeddings=False))",
        views(*N_PAIRS),
        partial(of_n_pairs, normalize=False),
    ),
    Row(
        "n_pairs",
        "pytorch_metric_learning",
        "NPairsLoss()",
        views(*N_PAIRS),
        partial(of_n_pairs, normalize=True),
        difference="embeddings are divided by their lengths first: ours of unit vectors",
        ours=of_unit_vectors,
    ),
    Triplets(
        "triplet_margin",
        counterpart="TripletMarginLoss(distance=LpDistance(normalize_embeddings=False))",
        theirs=partial(of_triplets, margin=0.2),
        config={"margin": 0.2},
        option={"average": "nonzero"},
    ),
    Triplets(
        "triplet_margin",
        counterpart="TripletMarginLoss(reducer=MeanReducer(), distance=LpDistance(normalize_embeddings=False))",
        theirs=partial(of_triplets, margin=0.2, reducer="MeanReducer"),
        config={"margin": 0.2},
    ),
    Triplets(
        "triplet_margin",
        counterpart="TripletMarginLoss()",
        theirs=partial(of_triplets, margin=0.2, normalize=True),
        config={"margin": 0.2},
        option={"average": "nonzero"},
        difference="embeddings are divided by their lengths first: ours of unit vectors",
        ours=of_unit_vectors,
    ),
    Triplets(
        "triplet_margin",
        counterpart="TripletMarginLoss(smooth_loss=True, margin=0, distance=LpDistance(normalize_embeddings=False))",
        theirs=partial(of_triplets, margin=0.0, smooth_loss=True),
        config={"soft": True},
        note="a margin is added inside the softplus there, ours has none",
    ),
    Labelled(
        "margin_contrastive",
        counterpart="ContrastiveLoss(reducer=MeanReducer, distance=LpDistance(normalize_embeddings=False))",
        theirs=partial(contrastive, reducer="MeanReducer"),
        config=MARGINS,
        ours=of_all_pairs,
    ),
    Labelled(
        "margin_contrastive",
        counterpart="ContrastiveLoss(distance=LpDistance(normalize_embeddings=False))",
        theirs=partial(contrastive, reducer="AvgNonZeroReducer"),
        config=MARGINS,
        difference=NONZERO,
        ours=of_violating_pairs,
        plain=of_all_pairs,
    ),
)
