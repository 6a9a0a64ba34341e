"""Each positive against the rows of a labelled batch, in a softmax: NT-Xent and the supervised contrastive loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from loss_reference.contract import Option
from loss_reference.contrastive.labelled_batch import LABELLED_BATCH, LabelledBatch, LabelledBatchLoss
from loss_reference.log_sums import logsumexp_where
from loss_reference.registry import register
from loss_reference.settings import Setting
from loss_reference.token_level import refine

__all__ = ["NTXentLoss", "SupConLoss", "ntxent", "supcon"]


def ntxent(s: Tensor, negative: Tensor, temperature: float = 0.07) -> Tensor:
    """Return -s_ij / t + log(e^(s_ij / t) + sum over negatives n of i of e^(s_in / t)) [B, B], for i against each j.

    Args:
        s: similarities [B, B].
        negative: bool [B, B].
        temperature: t, above 0.
    """
    rivals = logsumexp_where(s / temperature, negative).unsqueeze(1)
    return -F.logsigmoid(s / temperature - rivals)


def supcon(s: Tensor, positive: Tensor, negative: Tensor, temperature: float = 0.1) -> Tensor:
    """Return -mean over positives j of (s_ij / t - log sum over all others a of e^(s_ia / t)) [B]; 0 without a positive.

    Args:
        s: similarities [B, B].
        positive, negative: bool [B, B]; the others of i are its positives and its negatives.
        temperature: t, above 0.
    """
    log_p = s / temperature - logsumexp_where(s / temperature, positive | negative).unsqueeze(1)
    return -torch.where(positive, log_p, 0.0).sum(dim=1) / positive.sum(dim=1).clamp(min=1)


@register("ntxent")
class NTXentLoss(LabelledBatchLoss):
    """NT-Xent: l_ij = -log(e^(s_ij/t) / (e^(s_ij/t) + sum_n e^(s_in/t))), mean over all ordered positive pairs (i, j).

    The sum is over the negatives n of i, the rows of another label: further positives of i do not stand against j (as in
    PyTorch Metric Learning). Inputs and errors as in ``LabelledBatchLoss``. In nats, at least 0; log(1 + K) at equal
    similarities with K negatives, which is log(2 N - 1) for N pairs of two views; 0 without negatives.

    Config: ``temperature`` t (0.07, above 0; the default of optax and PyTorch Metric Learning).

    Source: arXiv 2002.05709, eq. 1.
    """

    contract = refine(LABELLED_BATCH, level="pair", group_size=1, options={"temperature": Option(values=(0.07, 1.0))})
    temperature = Setting(0.07, above=0.0)

    def terms(self, given: LabelledBatch) -> tuple[Tensor, Tensor]:
        return ntxent(given.s, given.negative, self.temperature), given.positive


@register("supcon")
class SupConLoss(LabelledBatchLoss):
    """Supervised contrastive: l_i = -mean over positives j of log(e^(s_ij/t) / sum_a e^(s_ia/t)), mean over anchors i.

    The sum is over all present rows a other than i. An anchor without a positive is no term (PyTorch Metric Learning
    averages over the anchors whose term is above 0, which differs where a term is exactly 0). Inputs and errors as in
    ``LabelledBatchLoss``. In nats, at least 0, at least log of the number of positives of every anchor; ``ntxent`` where
    every anchor has one positive. The mean over positives stands outside the logarithm.

    Config: ``temperature`` t (0.1, above 0).

    Source: arXiv 2004.11362, eq. 2.
    """

    contract = refine(LABELLED_BATCH, options={"temperature": Option(values=(0.1, 1.0))})
    temperature = Setting(0.1, above=0.0)

    def terms(self, given: LabelledBatch) -> tuple[Tensor, Tensor]:
        return supcon(given.s, given.positive, given.negative, self.temperature), given.positive.any(dim=1)
