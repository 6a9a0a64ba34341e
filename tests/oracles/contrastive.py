"""Contrastive losses."""

import math

from .counts import Fields, row_weight
from .numerics import logsumexp, softplus


def cosine(outputs: Fields, i: int, j: int) -> float:
    """s(i,j) = (e_i / max(|e_i|, 1e-8)) . (e_j / max(|e_j|, 1e-8))."""
    left = [float(x) for x in outputs["embeddings"][i]]
    right = [float(x) for x in outputs["embeddings"][j]]
    left_norm = max(math.sqrt(sum(x * x for x in left)), 1e-8)
    right_norm = max(math.sqrt(sum(x * x for x in right)), 1e-8)
    return sum((x / left_norm) * (y / right_norm) for x, y in zip(left, right, strict=True))


def index_pairs(batch: Fields, name: str) -> list[tuple[int, int]]:
    """The rows of an [N, 2] index field."""
    return [(int(pair[0]), int(pair[1])) for pair in batch[name]]


def pairwise_contrastive(batch: Fields, outputs: Fields, *, temperature: float = 0.1) -> float:
    """term_n = softplus((neg_sim_n - pos_sim_n) / tau); sum_n w_n term_n / max(sum_n w_n, 1).

    w_n is the smallest sample_mask among the rows that positive pair n and negative pair n touch.
    """
    total = 0.0
    weights = 0.0
    positives, negatives = index_pairs(batch, "positive_pairs"), index_pairs(batch, "negative_pairs")
    for positive, negative in zip(positives, negatives, strict=True):
        weight = min(row_weight(batch, row) for row in (*positive, *negative))
        if weight == 0.0:
            continue
        gap = cosine(outputs, *negative) - cosine(outputs, *positive)
        total += weight * softplus(gap / temperature)
        weights += weight
    return total / max(weights, 1.0)


def infonce(batch: Fields, outputs: Fields, *, temperature: float = 0.1) -> float:
    """term(a,p) = -s(a,p)/tau + logsumexp([s(a,p)/tau] + [s(a,j)/tau for each negative pair (a,j)]).

    sum w term / max(sum w, 1) over the positive pairs, w = min(sample_mask[a], sample_mask[p]); a negative pair
    counts (in full) where both its rows have sample_mask > 0.
    """
    total = 0.0
    weights = 0.0
    for a, p in index_pairs(batch, "positive_pairs"):
        weight = min(row_weight(batch, a), row_weight(batch, p))
        if weight == 0.0:
            continue
        positive = cosine(outputs, a, p) / temperature
        scores = [positive]
        for anchor, j in index_pairs(batch, "negative_pairs"):
            if anchor == a and row_weight(batch, a) > 0.0 and row_weight(batch, j) > 0.0:
                scores.append(cosine(outputs, a, j) / temperature)
        total += weight * (logsumexp(scores) - positive)
        weights += weight
    return total / max(weights, 1.0)
