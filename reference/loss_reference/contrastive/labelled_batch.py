"""Batches whose rows carry a label: every row is an anchor, rows of its label are positives, the others negatives."""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor

from loss_reference.contract import Contract
from loss_reference.contrastive.similarity import active_rows, dot_products, unit_vectors
from loss_reference.interface import Batch, LossFunction, Outputs
from loss_reference.reduction import mean_of_terms
from loss_reference.shapes import require_shape

__all__ = ["LABELLED_BATCH", "LabelledBatch", "LabelledBatchLoss", "labelled_batch"]

LABELLED_BATCH: Final = Contract(
    family="contrastive", level="sample", normalizer="local", lower_bound=0.0, coupled=True
)


class LabelledBatch(NamedTuple):
    """What a loss over a labelled batch is made of.

    Attributes:
        s: cosine similarities [B, B].
        positive: bool [B, B]; (i, j) belong together: j is not i, both are present and have the same label.
        negative: bool [B, B]; (i, j) do not: both are present and their labels differ.
        present: bool [B], the rows whose ``sample_mask`` is not 0.
    """

    s: Tensor
    positive: Tensor
    negative: Tensor
    present: Tensor


def labelled_batch(batch: Batch, model_outputs: Outputs) -> LabelledBatch:
    """Return the similarities of ``embeddings`` [B, D], and who is whose positive and negative by ``labels`` [B].

    Raises:
        KeyError: no ``embeddings`` or no ``labels``.
        ValueError: shapes that do not belong together.
    """
    (e,), w = active_rows(batch, model_outputs, "embeddings")
    labels, present = batch["labels"].detach(), w != 0
    require_shape("labels", labels, tuple(w.shape), "one per embedding")
    units = unit_vectors(e)
    both = present.unsqueeze(1) & present
    same = labels.unsqueeze(1) == labels
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    return LabelledBatch(dot_products(units, units), both & same & ~itself, both & ~same, present)


class LabelledBatchLoss(LossFunction):
    """L = mean of the terms that ``terms`` finds in a labelled batch, over those that it counts.

    Reads ``embeddings`` [B, D] of the model outputs and ``labels`` [B]; optional ``sample_mask`` [B]. Similarities are
    cosines, so the lengths of the embeddings do not matter. A row whose ``sample_mask`` is 0 is absent, as an anchor, as
    a positive and as a negative; any other value means present and is no weight. The mean is over this batch alone, so
    losses of microbatches do not add up. The embeddings receive gradient.

    Raises:
        KeyError: no ``embeddings`` or no ``labels``.
        ValueError: shapes that do not belong together.
        ConfigError: a setting out of range or unknown.
    """

    def terms(self, given: LabelledBatch) -> tuple[Tensor, Tensor]:
        """Return (l, counted): terms of one shape, and which of them the mean is over, bool."""
        raise NotImplementedError(f"{type(self).__name__} must define terms(self, given)")

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        given = labelled_batch(batch, model_outputs)
        terms, counted = self.terms(given)
        return mean_of_terms(terms, counted.to(terms.dtype), count=None)
