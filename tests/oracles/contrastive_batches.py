"""Contrastive losses of a labelled batch: rows of one label are positives of one another, all others negatives.

s(i,j) is the cosine similarity. A row of sample_mask 0 is no anchor, no positive and no negative; every mean is over
what this batch holds, each present row counting once.
"""

from .contrastive import cosine
from .counts import Fields, row_weight
from .numerics import logsumexp, softplus


def neighbours(batch: Fields, outputs: Fields) -> list[tuple[list[float], list[float]]]:
    """For each present row, its similarities to the other present rows: (of its label, of other labels)."""
    present = [b for b in range(outputs["embeddings"].shape[0]) if row_weight(batch, b) != 0.0]
    found = []
    for i in present:
        positives: list[float] = []
        negatives: list[float] = []
        for j in present:
            if j != i:
                alike = int(batch["labels"][i]) == int(batch["labels"][j])
                (positives if alike else negatives).append(cosine(outputs, i, j))
        found.append((positives, negatives))
    return found


def mean(values: list[float]) -> float:
    """The mean, 0 of nothing."""
    return sum(values) / max(len(values), 1)


def ntxent(batch: Fields, outputs: Fields, *, temperature: float = 0.07) -> float:
    """mean over ordered positive pairs of logsumexp(s_ij/tau, s_ik/tau for i's negatives k) - s_ij/tau."""
    terms = []
    for positives, negatives in neighbours(batch, outputs):
        for s in positives:
            terms.append(logsumexp([x / temperature for x in (s, *negatives)]) - s / temperature)
    return mean(terms)


def supcon(batch: Fields, outputs: Fields, *, temperature: float = 0.1) -> float:
    """mean over anchors with a positive of logsumexp_{j != i} s_ij/tau - mean over positives of s_ij/tau."""
    terms = []
    for positives, negatives in neighbours(batch, outputs):
        if positives:
            everything = logsumexp([x / temperature for x in positives + negatives])
            terms.append(everything - mean(positives) / temperature)
    return mean(terms)


def circle(
    batch: Fields, outputs: Fields, *, gamma: float = 80.0, margin: float = 0.4, held: Fields | None = None
) -> float:
    """batch losses, circle: mean over anchors with both a positive and a negative of softplus(N + P).

    N = logsumexp_n g (h_n + m)^+ (s_n - m), P = logsumexp_p -g (1 + m - h_p)^+ (s_p - 1 + m), g gamma, m margin. h is s, or
    the similarities of held, where the weights stay while s moves.
    """

    def negative(s: float, h: float) -> float:
        return gamma * max(h + margin, 0.0) * (s - margin)

    def positive(s: float, h: float) -> float:
        return -gamma * max(1.0 + margin - h, 0.0) * (s - (1.0 - margin))

    terms = []
    weights = neighbours(batch, outputs if held is None else held)
    for (positives, negatives), (of_positives, of_negatives) in zip(neighbours(batch, outputs), weights, strict=True):
        if positives and negatives:
            N = logsumexp([negative(s, h) for s, h in zip(negatives, of_negatives, strict=True)])
            P = logsumexp([positive(s, h) for s, h in zip(positives, of_positives, strict=True)])
            terms.append(softplus(N + P))
    return mean(terms)


def multi_similarity(
    batch: Fields, outputs: Fields, *, alpha: float = 2.0, beta: float = 50.0, base: float = 0.5
) -> float:
    """batch losses, multi-similarity: mean over all present anchors of P + N, each 0 where there is nothing to sum.

    P = log(1 + sum_p e^{-alpha (s_p - base)}) / alpha, N = log(1 + sum_n e^{beta (s_n - base)}) / beta.
    """
    terms = []
    for positives, negatives in neighbours(batch, outputs):
        pull = logsumexp([0.0, *(-alpha * (s - base) for s in positives)]) / alpha
        push = logsumexp([0.0, *(beta * (s - base) for s in negatives)]) / beta
        terms.append(pull + push)
    return mean(terms)
