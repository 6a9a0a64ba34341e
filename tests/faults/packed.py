"""Packed rows: the edge between two documents, and how many of them are counted."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from loss_reference import Contract, LossFunction
from tests.faults.fault import ADVICE, FAILED, Fault
from tests.faults.parts import token_mean, token_weights

TOKENS = Contract(family="supervised", level="token")
ROWS = Contract(family="supervised", level="token")


def likelihood(logits, labels, inside):
    """Return the sum of -log p over labelled tokens inside their document, and how many they are."""
    keep = (labels[:, 1:] != -100) & inside
    logits, labels = torch.where(keep[..., None], logits[:, :-1], 0.0), torch.where(keep, labels[:, 1:], 0)
    terms = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="none")
    return torch.where(keep.flatten(), terms, 0.0).sum(), keep.sum()


def inside_document(ids):
    return ids[:, 1:] == ids[:, :-1]


def edges_dropped(logits, labels, document_ids):
    total, count = likelihood(logits, labels, inside_document(document_ids))
    return total / count.clamp(min=1)


def edges_one_late(logits, labels, document_ids):
    inside = F.pad(inside_document(document_ids)[:, :-1], (1, 0), value=True)
    total, count = likelihood(logits, labels, inside)
    return total / count.clamp(min=1)


def edges_counted_twice(logits, labels, document_ids):
    inside = inside_document(document_ids)
    total, count = likelihood(logits, labels, inside)
    return total / (count - (~inside).sum()).clamp(min=1)


def edges_in_the_divisor(logits, labels, document_ids):
    total, _ = likelihood(logits, labels, inside_document(document_ids))
    return total / (labels[:, 1:] != -100).sum().clamp(min=1)


class OfPackedRows(LossFunction):
    """-mean lp over trained tokens that do not begin a document."""

    def inside(self, ids):
        return inside_document(ids)

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch) * self.inside(batch["document_ids"])
        lp = torch.where(m != 0, model_outputs["next_token_logprobs"], 0.0)
        return token_mean(-lp, m, {})


class EndsDropped(OfPackedRows):
    """The last token of each document is left out instead of the first one of the next."""

    def inside(self, ids):
        return F.pad(inside_document(ids)[:, 1:], (0, 1), value=True)


FAULTS = (
    Fault(
        "X470",
        "the first token of a document stays, the second one is dropped",
        "meta-pytorch/torchtune#2613",
        edges_one_late,
        edges_dropped,
        ("masking",),
        TOKENS,
        bare=FAILED,
    ),
    Fault(
        "X471",
        "edges between documents are taken off a count that leaves them out",
        "unslothai/unsloth-zoo#1066",
        edges_counted_twice,
        edges_dropped,
        ("reduction",),
        TOKENS,
        bare=FAILED,
    ),
    Fault(
        "X472",
        "the first tokens of documents are left out of the sum, not of its divisor",
        "",
        edges_in_the_divisor,
        edges_dropped,
        ("masking",),
        TOKENS,
        advice=True,
        bare=ADVICE,
    ),
    Fault("X473", "document ids compared one token late", "", EndsDropped, OfPackedRows, ("masking",), ROWS),
)
