"""Losses that weigh the positives and negatives of an anchor by how far they are from where they should be."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from loss_reference.contract import Option
from loss_reference.contrastive.labelled_batch import LABELLED_BATCH, LabelledBatch, LabelledBatchLoss
from loss_reference.log_sums import logsumexp_where
from loss_reference.registry import register
from loss_reference.settings import Setting
from loss_reference.token_level import refine

__all__ = ["CircleLoss", "MultiSimilarityLoss", "circle", "multi_similarity"]


def circle(s: Tensor, positive: Tensor, negative: Tensor, gamma: float = 80.0, margin: float = 0.4) -> Tensor:
    """Return log(1 + sum_n e^(gamma a_n (s_n - m)) sum_p e^(-gamma a_p (s_p - 1 + m))) [B], one term per anchor.

    The weights a_n = max(0, s_n + m) and a_p = max(0, 1 + m - s_p) are constant.

    Args:
        s: similarities [B, B].
        positive, negative: bool [B, B]; 0 comes of an anchor that lacks either.
        gamma: above 0.
        margin: m.
    """
    a_p, a_n = F.relu(1 + margin - s.detach()), F.relu(s.detach() + margin)
    pull = logsumexp_where(-gamma * a_p * (s - (1 - margin)), positive)
    push = logsumexp_where(gamma * a_n * (s - margin), negative)
    return -F.logsigmoid(-(pull + push))


def multi_similarity(
    s: Tensor, positive: Tensor, negative: Tensor, alpha: float = 2.0, beta: float = 50.0, base: float = 0.5
) -> Tensor:
    """Return log(1 + sum_p e^(-alpha (s_p - base))) / alpha + log(1 + sum_n e^(beta (s_n - base))) / beta [B].

    Args:
        s: similarities [B, B].
        positive, negative: bool [B, B]; a part with no entry is 0.
        alpha, beta: above 0.
        base: the similarity that positives should exceed and negatives stay below.
    """
    pull = -F.logsigmoid(-logsumexp_where(-alpha * (s - base), positive)) / alpha
    push = -F.logsigmoid(-logsumexp_where(beta * (s - base), negative)) / beta
    return pull + push


@register("circle")
class CircleLoss(LabelledBatchLoss):
    """Circle loss: l_i = log(1 + sum_n e^(gamma a_n (s_in - m)) sum_p e^(-gamma a_p (s_ip - 1 + m))), mean over anchors i.

    The sums are over the negatives n and the positives p of anchor i; an anchor that lacks either is no term. The weights
    a_n = max(0, s_in + m) and a_p = max(0, 1 + m - s_ip) are constant, so the gradient is not that of the value. Inputs
    and errors as in ``LabelledBatchLoss``. At least 0.

    Config: ``gamma`` (80, above 0); ``margin`` m (0.4, from 0 to 1). These defaults are those of PyTorch Metric Learning.

    Source: arXiv 2002.10857.
    """

    contract = refine(
        LABELLED_BATCH,
        surrogate_gradient=True,
        options={"gamma": Option(values=(1.0, 80.0)), "margin": Option(values=(0.25, 0.4))},
    )
    gamma = Setting(80.0, above=0.0)
    margin = Setting(0.4, least=0.0, most=1.0)

    def terms(self, given: LabelledBatch) -> tuple[Tensor, Tensor]:
        s, positive, negative, _ = given
        return circle(s, positive, negative, self.gamma, self.margin), positive.any(dim=1) & negative.any(dim=1)


@register("multi_similarity")
class MultiSimilarityLoss(LabelledBatchLoss):
    """Multi-similarity: l_i = log(1 + sum_p e^(-alpha (s_ip - base))) / alpha + log(1 + sum_n e^(beta (s_in - base))) / beta.

    The sums are over all positives p and all negatives n of anchor i; the paper first selects informative pairs, which is
    left to the caller. The mean is over all present rows, also those without a positive or a negative. Inputs and errors
    as in ``LabelledBatchLoss``. At least 0. A sum of exponentials makes its gradient one weight per pair, larger for
    pairs further on the wrong side of ``base``.

    Config: ``alpha`` (2, above 0); ``beta`` (50, above 0); ``base`` (0.5).

    Source: arXiv 1904.06627.
    """

    contract = refine(
        LABELLED_BATCH,
        options={
            "alpha": Option(values=(1.0, 2.0)),
            "beta": Option(values=(10.0, 50.0)),
            "base": Option(values=(0.0, 0.5)),
        },
    )
    alpha = Setting(2.0, above=0.0)
    beta = Setting(50.0, above=0.0)
    base = Setting(0.5)

    def terms(self, given: LabelledBatch) -> tuple[Tensor, Tensor]:
        s, positive, negative, present = given
        return multi_similarity(s, positive, negative, self.alpha, self.beta, self.base), present
