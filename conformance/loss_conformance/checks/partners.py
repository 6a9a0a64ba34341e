"""Who belongs to whom among embeddings, as the names of the inputs say it: anchors, positives, two views, labels, pairs."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.cases.slot import Slot

__all__ = ["Partners", "partners_of", "strangers_of", "wrong_order"]

ANCHOR: Final = re.compile("(.*_)?(anchors?|query|queries|images?|img)(_.*)?", re.IGNORECASE)
POSITIVE: Final = re.compile("(.*_)?(positives?|pos)(_.*)?", re.IGNORECASE)
TEXT: Final = re.compile("(.*_)?texts?(_.*)?", re.IGNORECASE)
NEGATIVE: Final = re.compile("(.*_)?(negatives?|neg)(_.*)?", re.IGNORECASE)

STEP: Final = 2.0**-6
"""How much farther than the negative the positive is put, as a share of the distance: no margin is as small."""

Build = Callable[[Case], Case]


@dataclass(frozen=True)
class Partners:
    """Which embeddings belong together.

    Attributes:
        words: how a person says it.
        sure: the names leave no doubt.
        towards: from the case to the direction, by key, in which partners meet.
        meetings: from the case to one in which partners coincide, and to one in which strangers do; ``None`` when there
            are too few rows for that.
        overlapping: a row may be the partner of one and a stranger to another, so that no one direction is right.
    """

    words: str
    sure: bool
    towards: Callable[[Case], dict[str, Tensor]]
    meetings: tuple[Build, Build] | None
    overlapping: bool = False


def partners_of(case: Case) -> Partners | None:
    """Return who belongs to whom in the inputs of this case, or ``None`` when they do not say it."""
    embeddings = [slot for slot in case.slots() if slot.role == "embeddings" and slot.row_axis == 0]
    others = [
        slot for slot in case.slots() if slot.role in ("labels", "pairs") or slot.signs or slot.kind == "binary_targets"
    ]
    if len(embeddings) == 1 and case.tensor(embeddings[0]).dim() == 2:
        return _in_one_batch(case, embeddings[0], others)
    anchor, positive, sure = _two_sides(embeddings)
    if anchor is None or positive is None or others or case.tensor(anchor).shape != case.tensor(positive).shape:
        return None
    a, p = anchor.key, positive.key
    return Partners(
        f"{p} and {a}, row by row",
        sure,
        lambda c: {p: c.tensors[a] - c.tensors[p]},
        (
            lambda c: c.with_tensors({p: c.tensors[a].clone()}),
            lambda c: c.with_tensors({p: c.tensors[a].roll(1, 0)}),
        ),
    )


def wrong_order(case: Case) -> tuple[Case, Slot, Slot] | None:
    """Return the case with every positive slightly farther from its anchor than the negative, both slots beside it.

    The positive lies beyond the negative, seen from the anchor: both its distance and its angle are larger.
    """
    embeddings = [slot for slot in case.slots() if slot.role == "embeddings"]
    anchor, positive, _ = _two_sides(embeddings)
    negative = next((slot for slot in embeddings if NEGATIVE.fullmatch(slot.name)), None)
    if anchor is None or positive is None or negative is None:
        return None
    a, n = case.tensor(anchor), case.tensor(negative)
    if not a.shape == n.shape == case.tensor(positive).shape or not (positive.trainable and negative.trainable):
        return None
    return case.with_tensors({positive.key: n + STEP * (n - a)}), positive, negative


def strangers_of(case: Case) -> tuple[Build, Build] | None:
    """Return how to make negatives coincide with their anchors, and how to make them opposite; ``None`` without negatives."""
    embeddings = [slot for slot in case.slots() if slot.role == "embeddings" and slot.key in case.tensors]
    if case.schema.find("batch.negative_pairs") is not None:
        if case.schema.find("batch.positive_pairs") is None or len(embeddings) != 1 or len(case.rows) < 3:
            return None
        key = embeddings[0].key
        return lambda c: _with_stranger(c, key, 1.0), lambda c: _with_stranger(c, key, -1.0)
    anchor, _, sure = _two_sides(embeddings)
    negative = next((slot for slot in embeddings if NEGATIVE.fullmatch(slot.name)), None)
    if anchor is None or negative is None or not sure or case.tensor(anchor).shape != case.tensor(negative).shape:
        return None
    a, n = anchor.key, negative.key
    return lambda c: c.with_tensors({n: c.tensors[a].clone()}), lambda c: c.with_tensors({n: -c.tensors[a]})


def _with_stranger(case: Case, key: str, sign: float) -> Case:
    """Return the case in which rows 0 and 1 are every positive pair and coincide, 0 and 2 every negative one."""
    paired = _paired_up(case, key, 1)
    x = paired.tensors[key].clone()
    x[2] = sign * x[0]
    return paired.with_tensors({key: x})


def _two_sides(embeddings: list[Slot]) -> tuple[Slot | None, Slot | None, bool]:
    positive = next((s for s in embeddings if POSITIVE.fullmatch(s.name)), None)
    anchor = next((s for s in embeddings if ANCHOR.fullmatch(s.name) and s is not positive), None)
    text = next((s for s in embeddings if TEXT.fullmatch(s.name)), None)
    if positive is None and text is not None:
        positive = text
    if anchor is not None and positive is not None:
        return anchor, positive, True
    views = [slot for slot in embeddings if not NEGATIVE.fullmatch(slot.name)]
    return (views[0], views[1], False) if len(views) == 2 == len(embeddings) else (None, None, False)


def _in_one_batch(case: Case, slot: Slot, others: list[Slot]) -> Partners | None:
    key = slot.key
    pairs = case.schema.find("batch.positive_pairs")
    if pairs is not None:
        met = (lambda c: _paired_up(c, key, 1), lambda c: _paired_up(c, key, 2)) if len(case.rows) > 2 else None
        words = "the rows of each positive pair"
        return Partners(words, True, lambda c: _meeting(c, key, pairs.key), met, overlapping=True)
    if len(others) != 1 or others[0].role != "labels" or case.tensor(others[0]).dim() != 1:
        return None
    labels = others[0].key

    def clustered(c: Case, by: Tensor) -> Case:
        centres = torch.eye(int(by.max()) + 1, c.tensors[key].shape[1]).to(c.tensors[key])
        return c.with_tensors({key: centres[by]})

    return Partners(
        "the rows of each label",
        False,
        lambda c: {key: _same(c.tensors[labels]).to(c.tensors[key]) @ c.tensors[key] - c.tensors[key]},
        (
            lambda c: clustered(c, c.tensors[labels]),
            lambda c: clustered(c, c.tensors[labels].roll(1, 0)),
        ),
    )


def _meeting(case: Case, key: str, pairs: str) -> dict[str, Tensor]:
    x, (first, second) = case.tensors[key], case.tensors[pairs].T
    step = x[second] - x[first]
    return {key: torch.zeros_like(x).index_add(0, first, step).index_add(0, second, -step)}


def _paired_up(case: Case, key: str, meets: int) -> Case:
    """Return the case in which rows 0 and 1 are every positive pair, 0 and 2 every negative one, and 0 meets one of them."""
    x = case.tensors[key].clone()
    x[1], x[2] = (x[0], x[2]) if meets == 1 else (x[2], x[0])
    changed = {key: x}
    for slot in case.slots():
        if slot.role == "pairs":
            changed[slot.key] = torch.zeros_like(case.tensor(slot))
            changed[slot.key][:, 1] = 1 if slot.kind == "batch.positive_pairs" else 2
    return case.with_tensors(changed)


def _same(labels: Tensor) -> Tensor:
    """Return the [B, B] weights that take the mean over the rows of each row's label."""
    same = (labels[:, None] == labels).to(torch.float64)
    return same / same.sum(1, keepdim=True)
