"""Losses of euclidean distances: triplets, and pairs with a margin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from loss_reference.contract import Contract, Field, Option
from loss_reference.contrastive.similarity import active_rows, index_pairs
from loss_reference.interface import Batch, LossFunction, Outputs
from loss_reference.reduction import mean_of_terms
from loss_reference.registry import register
from loss_reference.relevance import where
from loss_reference.settings import Setting
from loss_reference.token_level import refine

__all__ = ["MarginContrastiveLoss", "TripletMarginLoss", "distance", "hinge", "margin_contrastive", "triplet_margin"]


def distance(x: Tensor, y: Tensor) -> Tensor:
    """Return |x - y| [...] of vectors [..., D]; its gradient where x = y is taken as 0."""
    length: Tensor = torch.linalg.vector_norm(x - y, dim=-1)
    return length


def triplet_margin(d_ap: Tensor, d_an: Tensor, margin: float = 1.0, soft: bool = False) -> Tensor:
    """Return max(0, d_ap - d_an + margin), or log(1 + e^(d_ap - d_an)) when ``soft``, one term per triplet.

    Args:
        d_ap, d_an: distances [B] of the anchor to its positive and to its negative.
        margin: at least 0; not read when ``soft``.
    """
    return -F.logsigmoid(d_an - d_ap) if soft else F.relu(d_ap - d_an + margin)


def hinge(x: Tensor, squared: bool = False) -> Tensor:
    """Return max(0, x), or half its square when ``squared``."""
    return F.relu(x) ** 2 / 2 if squared else F.relu(x)


def margin_contrastive(
    d: Tensor, alike: bool, positive_margin: float = 0.0, negative_margin: float = 1.0, squared: bool = False
) -> Tensor:
    """Return max(0, d - m_pos) of positive pairs, max(0, m_neg - d) of negative ones, one term per pair.

    Args:
        d: distances [N] of the two rows of each pair, at least 0.
        alike: whether these pairs are the positive ones.
        positive_margin: m_pos, at least 0.
        negative_margin: m_neg, at least 0.
        squared: whether half the square of the hinge is taken.
    """
    return hinge(d - positive_margin if alike else negative_margin - d, squared)


@register("triplet_margin")
class TripletMarginLoss(LossFunction):
    """Triplet: l = max(0, d(a, p) - d(a, n) + margin), d the euclidean distance.

    a, p and n are ``anchor_embeddings``, ``positive_embeddings`` and ``negative_embeddings`` [B, D] of the model outputs,
    one triplet per row, not normalised; optional ``sample_mask`` [B], the weights of the rows. Mean over this batch, at
    least 0; ``margin`` at equal distances, log 2 with ``soft``. All three receive gradient; at distance 0 that of the
    distance is 0. PyTorch's module adds 1e-6 to every difference.

    Config: ``margin`` (1, at least 0; PyTorch Metric Learning has 0.05); ``soft`` (False; True: log(1 + e^(d_ap - d_an)),
    which has no margin); ``average`` (``"all"``: the weighted mean over rows, as PyTorch; ``"nonzero"``: over the rows
    whose term is above 0, as PyTorch Metric Learning).

    Raises:
        KeyError: one of the embeddings is missing.
        ValueError: shapes that do not belong together.
        ConfigError: a setting out of range or unknown.

    Source: arXiv 1503.03832, with distances that are not squared.
    """

    contract = Contract(
        family="contrastive",
        level="sample",
        normalizer="local",
        lower_bound=0.0,
        coupled=False,
        options={
            "margin": Option(values=(0.05, 1.0)),
            "soft": Option(values=(False, True)),
            "average": Option(values=("all", "nonzero")),
        },
        fields={
            "anchor_embeddings": Field("embeddings", "B D", trainable=True),
            "positive_embeddings": Field("embeddings", "B D", trainable=True),
            "negative_embeddings": Field("embeddings", "B D", trainable=True),
        },
    )
    margin = Setting(1.0, least=0.0, read_when=where("soft", False))
    soft = Setting(False)
    average = Setting("all", choices=("all", "nonzero"))

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        if (
            self.average == "nonzero"
        ):  # the divisor depends on the terms of other rows; a further one can lower the mean
            self.contract = refine(self.contract, coupled=True, direction={})

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        (a, p, n), w = active_rows(
            batch, model_outputs, "anchor_embeddings", "positive_embeddings", "negative_embeddings"
        )
        terms = triplet_margin(distance(a, p), distance(a, n), self.margin, self.soft)
        counted = w if self.average == "all" else w * (terms > 0)
        return mean_of_terms(terms, counted, count=None)


@register("margin_contrastive")
class MarginContrastiveLoss(LossFunction):
    """Contrastive with margins: L = mean_positive max(0, d - m_pos) + mean_negative max(0, m_neg - d), d euclidean.

    Reads ``embeddings`` [B, D], ``positive_pairs`` [N, 2] and ``negative_pairs`` [M, 2] (row numbers); optional
    ``sample_mask`` [B]. A pair weighs the smaller ``sample_mask`` of its rows; both means are over this batch, of their
    own weights. At least 0, reached where positives are within m_pos and negatives beyond m_neg. The embeddings receive
    gradient; two rows at one point give none, so equal negatives do not move apart.

    Config: ``positive_margin`` m_pos (0, at least 0); ``negative_margin`` m_neg (1, at least 0); ``squared`` (False, as
    in PyTorch Metric Learning; True: half the square of each hinge, the form of the paper).

    Raises:
        KeyError: no ``embeddings``, or no pairs.
        ValueError: shapes that do not belong together, a row number outside the embeddings.
        ConfigError: a setting out of range or unknown.

    Source: R. Hadsell, S. Chopra, Y. LeCun, "Dimensionality reduction by learning an invariant mapping", 2006, eq. 4.
    """

    contract = Contract(
        family="contrastive",
        level="pair",
        normalizer="local",
        lower_bound=0.0,
        coupled=True,
        direction={"positive_margin": -1, "negative_margin": +1},
        options={
            "positive_margin": Option(values=(0.0, 0.5)),
            "negative_margin": Option(values=(1.0, 2.0)),
            "squared": Option(values=(False, True)),
        },
    )
    positive_margin = Setting(0.0, least=0.0)
    negative_margin = Setting(1.0, least=0.0)
    squared = Setting(False)

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        (e,), rows = active_rows(batch, model_outputs, "embeddings")
        positive = index_pairs(batch, "positive_pairs", len(rows))
        negative = index_pairs(batch, "negative_pairs", len(rows))
        return self.mean_over_pairs(e, rows, positive, alike=True) + self.mean_over_pairs(
            e, rows, negative, alike=False
        )

    def mean_over_pairs(self, e: Tensor, rows: Tensor, pairs: Tensor, alike: bool) -> Tensor:
        """Return the mean of the terms of ``pairs`` [N, 2] of the rows of e [B, D], weighed by the weights ``rows`` [B]."""
        d = distance(e[pairs[:, 0]], e[pairs[:, 1]])
        terms = margin_contrastive(d, alike, self.positive_margin, self.negative_margin, self.squared)
        return mean_of_terms(terms, rows[pairs].amin(dim=1), count=None)
