"""InfoNCE: each positive pair against every negative pair of its anchor."""

from __future__ import annotations

import torch
from torch import Tensor

from loss_reference.contract import Contract, Option
from loss_reference.contrastive.similarity import active_embeddings, cosine_similarity, index_pairs
from loss_reference.interface import Batch, LossFunction, Outputs
from loss_reference.reduction import keep_active, mean_of_terms
from loss_reference.registry import register
from loss_reference.settings import Setting

__all__ = ["InfoNCELoss", "infonce"]


def infonce(s_pos: Tensor, s_neg: Tensor, rivals: Tensor, temperature: float = 0.1) -> Tensor:
    """Return -s_pos / t + log(e^(s_pos / t) + sum over its rivals of e^(s_neg / t)), one term per positive pair.

    Args:
        s_pos: similarities [N] of positive pairs.
        s_neg: similarities [M] of negative pairs.
        rivals: bool [N, M], which negative pairs stand against which positive pair.
        temperature: t, above 0.
    """
    against = torch.where(rivals, s_neg, float("-inf"))
    return -torch.cat([s_pos.unsqueeze(1), against], dim=1).div(temperature).log_softmax(dim=1)[:, 0]


@register("infonce")
class InfoNCELoss(LossFunction):
    """InfoNCE: L = mean over positive pairs (a, p) of -log(e^(s(a,p)/t) / (e^(s(a,p)/t) + sum_n e^(s(a,n)/t))).

    The sum is over the ``negative_pairs`` (a, n) that have the same anchor a, the first row of a pair, and whose rows are
    both present. Reads ``embeddings`` [B, D], ``positive_pairs`` [N, 2], ``negative_pairs`` [M, 2] (row numbers); optional
    ``sample_mask`` [B]. A positive pair weighs the smaller ``sample_mask`` of its rows. Result in nats, at least 0,
    log(1 + K) with K negatives at equal similarities. The embeddings receive gradient. Override ``compute_similarity``
    for another similarity than the cosine.

    Config: ``temperature`` (0.1, above 0).

    Raises:
        ValueError: shapes that do not belong together, a row number outside the embeddings.
        ConfigError: a setting out of range or unknown.

    Source: arXiv 1807.03748, eq. 4.
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
        w, present = rows[positive].amin(dim=1), rows[negative].amin(dim=1)
        s_pos = keep_active(self.compute_similarity(positive, outputs), w)
        s_neg = keep_active(self.compute_similarity(negative, outputs), present)
        rivals = (positive[:, :1] == negative[:, 0]) & (present != 0)
        return mean_of_terms(infonce(s_pos, s_neg, rivals, self.temperature), w, count=None)
