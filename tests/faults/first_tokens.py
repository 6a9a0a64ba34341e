"""The first token of a row, which nothing predicts, counted all the same."""

from __future__ import annotations

import torch

from loss_reference import Contract, LossFunction
from tests.faults.fault import ADVICE, Fault
from tests.faults.parts import kept, policy, row_mean, row_weights, token_weights

IGNORED = -100


def _summed(logits, labels):
    """Sum of -log p of every label from the logits before it."""
    lp = kept(logits[:, :-1], labels[:, 1:] != IGNORED).log_softmax(-1)
    of_label = lp.gather(-1, labels[:, 1:, None].clamp(min=0)).squeeze(-1)
    return -kept(of_label, labels[:, 1:] != IGNORED).sum()


def counted_before_the_shift(logits, labels):
    return _summed(logits, labels) / (labels != IGNORED).sum().clamp(min=1)


def counted_after_the_shift(logits, labels):
    return _summed(logits, labels) / (labels[:, 1:] != IGNORED).sum().clamp(min=1)


class MeanOfRow(LossFunction):
    """NLL averaged over the tokens of each row, then over rows."""

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        lengths = self.counted(batch["token_mask"]).sum(1).clamp(min=1)
        w = row_weights(batch, lengths)
        trained = batch["token_mask"][:, 1:]
        return row_mean(-(policy(model_outputs, m) * kept(trained, m)).sum(1) / lengths, w, batch)

    def counted(self, mask: torch.Tensor) -> torch.Tensor:
        return mask[:, 1:]


class MeanOfWholeRow(MeanOfRow):
    """The length is that of the mask before it is shifted."""

    def counted(self, mask: torch.Tensor) -> torch.Tensor:
        return mask


FAULTS = (
    Fault(
        "X461",
        "labels are counted before they are shifted",
        "huggingface/transformers#46204",
        counted_before_the_shift,
        counted_after_the_shift,
        ("reduction",),
        Contract(family="supervised", level="token"),
        bare=ADVICE,
    ),
    Fault(
        "X462",
        "the length of a row counts its first token, which nothing predicts",
        "",
        MeanOfWholeRow,
        MeanOfRow,
        ("reduction",),
        Contract(family="supervised", level="sequence", normalizer="global"),
    ),
)
