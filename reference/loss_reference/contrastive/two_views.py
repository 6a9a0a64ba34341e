"""Two embeddings of every row, which belong together: CLIP, SigLIP and the N-pair loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loss_reference.contract import Contract, Field, Option
from loss_reference.contrastive.similarity import active_rows, dot_products, unit_vectors
from loss_reference.interface import Batch, LossFunction, Outputs
from loss_reference.log_sums import logsumexp_where
from loss_reference.reduction import mean_of_terms
from loss_reference.registry import register
from loss_reference.settings import Setting

__all__ = ["CLIPSymmetricLoss", "NPairsLoss", "SigLIPLoss", "clip_symmetric", "matching_ce", "n_pairs", "siglip"]


def matching_ce(z: Tensor, present: Tensor) -> Tensor:
    """Return -z_ii + log sum over present j of e^(z_ij) [B], one term per row; of use where row i is present.

    Args:
        z: scores [B, B] of row i against column j.
        present: bool [B].
    """
    own = z.diagonal()
    # The differences are taken first: of scores in the thousands a logarithm of their sum keeps no digit of log B.
    near = torch.where(own.isfinite(), own, 0.0)
    return logsumexp_where(z - near.unsqueeze(1), present.expand(z.shape)) - (own - near)


def clip_symmetric(z: Tensor, present: Tensor) -> Tensor:
    """Return half the cross entropy of row i plus half that of column i [B]; z and ``present`` as in ``matching_ce``."""
    return (matching_ce(z, present) + matching_ce(z.T, present)) / 2


def n_pairs(a: Tensor, p: Tensor, present: Tensor) -> Tensor:
    """Return -a_i . p_i + log sum over present j of e^(a_i . p_j) [B], one term per row; of use where row i is present.

    Args:
        a, p: embeddings [B, D] of the anchors and of their positives, not normalised.
        present: bool [B].
    """
    return matching_ce(dot_products(a, p), present)


def siglip(z: Tensor, present: Tensor) -> Tensor:
    """Return -sum over present j of log sigma(+z_ij where j = i, -z_ij elsewhere) [B], one term per row.

    Args:
        z: scores [B, B] of row i against column j.
        present: bool [B].
    """
    signs = 2 * torch.eye(len(z), dtype=z.dtype, device=z.device) - 1
    return -torch.where(present, F.logsigmoid(signs * z), 0.0).sum(dim=1)


@register("clip_symmetric")
class CLIPSymmetricLoss(LossFunction):
    """CLIP: L = (CE over rows + CE over columns) / 2 of the matrix x_i . y_j / t, whose diagonal is the target.

    x and y are ``image_embeddings`` and ``text_embeddings`` [B, D] of the model outputs, divided by their lengths;
    optional ``sample_mask`` [B]: a row of 0 is absent, as a row and as a column, any other value means present. Both
    cross entropies are means over the present rows of this batch, so losses of microbatches do not add up. In nats, at
    least 0; log B at equal similarities; exchanging x and y changes nothing. Both embeddings receive gradient. The
    temperature is a constant here, where CLIP learns it.

    Config: ``temperature`` t (0.07, above 0).

    Raises:
        KeyError: one of the embeddings is missing.
        ValueError: shapes that do not belong together.
        ConfigError: a setting out of range or unknown.

    Source: arXiv 2103.00020, figure 3.
    """

    contract = Contract(
        family="contrastive",
        level="sample",
        normalizer="local",
        lower_bound=0.0,
        coupled=True,
        options={"temperature": Option(values=(0.07, 1.0))},
        fields={
            "image_embeddings": Field("embeddings", "B D", trainable=True),
            "text_embeddings": Field("embeddings", "B D", trainable=True),
        },
    )
    temperature = Setting(0.07, above=0.0)

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        (x, y), w = active_rows(batch, model_outputs, "image_embeddings", "text_embeddings")
        present = w != 0
        z = dot_products(unit_vectors(x), unit_vectors(y)) / self.temperature
        terms = clip_symmetric(z, present)
        return mean_of_terms(terms, present.to(terms.dtype), count=None)


@register("siglip")
class SigLIPLoss(LossFunction):
    """SigLIP: L = -(1 / B) sum_ij log sigma(s_ij (t x_i . y_j + b)), s_ij = 1 where i = j and -1 elsewhere.

    x and y are ``image_embeddings`` and ``text_embeddings`` [B, D] of the model outputs, divided by their lengths; B
    counts the present rows, and the sum is over those: a row whose ``sample_mask`` is 0 is absent, any other value means
    present. log t and b are parameters of the loss, ``log_scale`` (at first log 10) and ``bias`` (at first -10): give them
    to the optimiser. In nats, at least 0; B log 2 where t x_i . y_j + b is 0. Divided by B and not by the number of
    pairs B^2. Losses of microbatches do not add up. Embeddings and parameters receive gradient.

    Raises:
        KeyError: one of the embeddings is missing.
        ValueError: shapes that do not belong together.
        ConfigError: any setting: it has none.

    Source: arXiv 2303.15343, algorithm 1.
    """

    contract = Contract(
        family="contrastive",
        level="sample",
        normalizer="local",
        lower_bound=0.0,
        coupled=True,
        fields={
            "image_embeddings": Field("embeddings", "B D", trainable=True),
            "text_embeddings": Field("embeddings", "B D", trainable=True),
        },
    )
    strict_config = True

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))
        self.bias = nn.Parameter(torch.tensor(-10.0))

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        (x, y), w = active_rows(batch, model_outputs, "image_embeddings", "text_embeddings")
        present = w != 0
        z = self.log_scale.to(x).exp() * dot_products(unit_vectors(x), unit_vectors(y)) + self.bias.to(x)
        terms = siglip(z, present)
        return mean_of_terms(terms, present.to(terms.dtype), count=None)


@register("n_pairs")
class NPairsLoss(LossFunction):
    """N-pair: L = mean over rows of -a_i . p_i + log sum_j e^(a_i . p_j), the cross entropy of raw dot products.

    a and p are ``anchor_embeddings`` and ``positive_embeddings`` [B, D] of the model outputs, not normalised; optional
    ``sample_mask`` [B]: a row of 0 is absent, as an anchor and as a positive, any other value means present. In nats, at
    least 0; log B at equal dot products. The mean is over this batch alone, so losses of microbatches do not add up. Both
    embeddings receive gradient. The customary penalty on their lengths is not included.

    Raises:
        KeyError: one of the embeddings is missing.
        ValueError: shapes that do not belong together.
        ConfigError: any setting: it has none.

    Source: K. Sohn, "Improved deep metric learning with multi-class N-pair loss objective", 2016.
    """

    contract = Contract(
        family="contrastive",
        level="sample",
        normalizer="local",
        lower_bound=0.0,
        coupled=True,
        fields={
            "anchor_embeddings": Field("embeddings", "B D", trainable=True),
            "positive_embeddings": Field("embeddings", "B D", trainable=True),
        },
    )
    strict_config = True

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        (a, p), w = active_rows(batch, model_outputs, "anchor_embeddings", "positive_embeddings")
        present = w != 0
        terms = n_pairs(a, p, present)
        return mean_of_terms(terms, present.to(terms.dtype), count=None)
