"""Pairwise contrastive loss: each positive pair against one negative pair."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from loss_reference.contract import Contract, Option
from loss_reference.contrastive.similarity import active_embeddings, cosine_similarity, index_pairs
from loss_reference.interface import Batch, LossFunction, Outputs
from loss_reference.reduction import keep_active, mean_of_terms
from loss_reference.registry import register
from loss_reference.settings import Setting
from loss_reference.shapes import require_shape

__all__ = ["ContrastiveLoss", "pairwise_contrastive"]


def pairwise_contrastive(s_pos: Tensor, s_neg: Tensor, temperature: float = 0.1) -> Tensor:
    """Return -log(e^(s_pos / t) / (e^(s_pos / t) + e^(s_neg / t))) = softplus((s_neg - s_pos) / t), one term per pair."""
    return -F.logsigmoid((s_pos - s_neg) / temperature)  # exact in float64, unlike F.softplus with its threshold


@register("pairwise_contrastive", "contrastive")
class ContrastiveLoss(LossFunction):
    """Pairwise contrastive: L = mean over n of softplus((s(negative_n) - s(positive_n)) / temperature).

    Reads ``embeddings`` [B, D], ``positive_pairs`` and ``negative_pairs`` [N, 2] (row numbers; pair n against pair n);
    optional ``sample_mask`` [B]. A term weighs the smallest ``sample_mask`` of the rows it touches. Result in nats, at
    least 0, log 2 at equal similarities. The embeddings receive gradient. Override ``compute_similarity`` for another
    similarity than the cosine.

    Config: ``temperature`` (0.1, above 0).

    Raises:
        ValueError: shapes that do not belong together, a row number outside the embeddings.
        ConfigError: a setting out of range or unknown.

    Source: the contrastive loss of the NeMo RL guide on custom losses; arXiv 2002.05709, eq. 1, with one negative.
    """

    contract = Contract(
        family="contrastive",
        level="pair",
        normalizer="local",
        lower_bound=0.0,
        coupled=True,
        options={"temperature": Option(values=(0.1, 1.0))},
    )
    temperature = Setting(0.1, above=0.0)

    def compute_similarity(self, pairs: Tensor, model_outputs: Outputs) -> Tensor:
        """Return the similarity [N] of the rows each of ``pairs`` [N, 2] names."""
        return cosine_similarity(model_outputs["embeddings"], pairs)

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        outputs, rows = active_embeddings(batch, model_outputs)
        positive = index_pairs(batch, "positive_pairs", len(rows))
        negative = index_pairs(batch, "negative_pairs", len(rows))
        require_shape("negative_pairs", negative, tuple(positive.shape), "that of positive_pairs")
        w = rows[torch.cat([positive, negative], dim=1)].amin(dim=1)
        s_pos = keep_active(self.compute_similarity(positive, outputs), w)
        s_neg = keep_active(self.compute_similarity(negative, outputs), w)
        return mean_of_terms(pairwise_contrastive(s_pos, s_neg, self.temperature), w, count=None)
