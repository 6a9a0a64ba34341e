"""Contrastive losses of rows that come with their partners: two embeddings a row, three, or listed pairs."""

import math

from .contrastive import index_pairs
from .counts import Fields, row_weight
from .numerics import logsumexp, softplus


def vector(outputs: Fields, name: str, i: int) -> list[float]:
    """Row i of an embedding."""
    return [float(x) for x in outputs[name][i]]


def unit(values: list[float]) -> list[float]:
    """x / max(|x|, 1e-8)."""
    norm = max(math.hypot(*values), 1e-8)
    return [x / norm for x in values]


def dot(left: list[float], right: list[float]) -> float:
    """sum_k x_k y_k."""
    return sum(x * y for x, y in zip(left, right, strict=True))


def present_rows(batch: Fields, outputs: Fields, name: str) -> list[int]:
    """The rows of sample_mask not 0."""
    return [b for b in range(outputs[name].shape[0]) if row_weight(batch, b) != 0.0]


def diagonal_ce(scores: list[list[float]]) -> float:
    """mean_i of logsumexp_j s_ij - s_ii; 0 of an empty matrix."""
    return sum(logsumexp(row) - row[i] for i, row in enumerate(scores)) / max(len(scores), 1)


def clip_symmetric(batch: Fields, outputs: Fields, *, temperature: float = 0.07) -> float:
    """C5: half the diagonal cross-entropy over the rows, half that over the columns, of x_i . y_j / tau, units x, y."""
    rows = present_rows(batch, outputs, "image_embeddings")
    images = [unit(vector(outputs, "image_embeddings", b)) for b in rows]
    texts = [unit(vector(outputs, "text_embeddings", b)) for b in rows]
    of_images = [[dot(x, y) / temperature for y in texts] for x in images]
    of_texts = [[dot(x, y) / temperature for x in images] for y in texts]
    return 0.5 * diagonal_ce(of_images) + 0.5 * diagonal_ce(of_texts)


def siglip(batch: Fields, outputs: Fields, *, scale: float = 10.0, bias: float = -10.0) -> float:
    """C6: -(1/n) sum_ij log sigma(z_ij (scale x_i . y_j + bias)) over n rows, units x, y; z = 1 at i = j, else -1."""
    rows = present_rows(batch, outputs, "image_embeddings")
    total = 0.0
    for i in rows:
        x = unit(vector(outputs, "image_embeddings", i))
        for j in rows:
            score = scale * dot(x, unit(vector(outputs, "text_embeddings", j))) + bias
            total += softplus(-score) if i == j else softplus(score)
    return total / max(len(rows), 1)


def n_pairs(batch: Fields, outputs: Fields) -> float:
    """C9, n-pairs: the diagonal cross-entropy of a_i . p_j, embeddings as they are."""
    rows = present_rows(batch, outputs, "anchor_embeddings")
    anchors = [vector(outputs, "anchor_embeddings", b) for b in rows]
    positives = [vector(outputs, "positive_embeddings", b) for b in rows]
    return diagonal_ce([[dot(a, p) for p in positives] for a in anchors])


def triplet_margin(
    batch: Fields, outputs: Fields, *, margin: float = 1.0, soft: bool = False, average: str = "all"
) -> float:
    """C7: max(0, d(a,p) - d(a,n) + margin), or softplus(d(a,p) - d(a,n)) where soft; d Euclidean.

    sum_b w_b term_b / max(sum_b w_b, 1), w = sample_mask; average "nonzero": over the rows of a term above 0 only.
    """
    if average not in ("all", "nonzero"):
        raise ValueError(f"unknown average {average!r}")
    total = 0.0
    weights = 0.0
    for b in present_rows(batch, outputs, "anchor_embeddings"):
        anchor = vector(outputs, "anchor_embeddings", b)
        gap = math.dist(anchor, vector(outputs, "positive_embeddings", b))
        gap -= math.dist(anchor, vector(outputs, "negative_embeddings", b))
        term = softplus(gap) if soft else max(0.0, gap + margin)
        if average == "all" or term > 0.0:
            total += row_weight(batch, b) * term
            weights += row_weight(batch, b)
    return total / max(weights, 1.0)


def margin_contrastive(
    batch: Fields,
    outputs: Fields,
    *,
    positive_margin: float = 0.0,
    negative_margin: float = 1.0,
    squared: bool = False,
) -> float:
    """C8: mean over positive pairs of max(0, d - m_p) + mean over negative pairs of max(0, m_n - d); d Euclidean.

    With squared, half the square of each. Means weighed by the lesser sample_mask of the pair, divisors at least 1.
    """

    def mean(name: str, sign: float, margin: float) -> float:
        total = 0.0
        weights = 0.0
        for i, j in index_pairs(batch, name):
            weight = min(row_weight(batch, i), row_weight(batch, j))
            if weight == 0.0:
                continue
            distance = math.dist(vector(outputs, "embeddings", i), vector(outputs, "embeddings", j))
            excess = max(0.0, sign * (distance - margin))
            total += weight * (0.5 * excess * excess if squared else excess)
            weights += weight
        return total / max(weights, 1.0)

    return mean("positive_pairs", 1.0, positive_margin) + mean("negative_pairs", -1.0, negative_margin)
