"""Contrastive losses of a labelled batch: rows of one label are positives of one another, all others negatives.

s(i,j) is the cosine similarity. A row of sample_mask 0 is no anchor, no positive and no negative; every mean is over
what this batch holds, each present row counting once.
"""

from collections.abc import Callable

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
    """C3: mean over ordered positive pairs of logsumexp(s_ij/tau, s_ik/tau for i's negatives k) - s_ij/tau."""
    terms = []
    for positives, negatives in neighbours(batch, outputs):
        for s in positives:
            terms.append(logsumexp([x / temperature for x in (s, *negatives)]) - s / temperature)
    return mean(terms)


def supcon(batch: Fields, outputs: Fields, *, temperature: float = 0.1) -> float:
    """C4: mean over anchors with a positive of logsumexp_{j != i} s_ij/tau - mean over positives of s_ij/tau."""
    terms = []
    for positives, negatives in neighbours(batch, outputs):
        if positives:
            everything = logsumexp([x / temperature for x in positives + negatives])
            terms.append(everything - mean(positives) / temperature)
    return mean(terms)


def spread(similarities: list[float], exponent: Callable[[float], float]) -> float:
    """logsumexp of the exponents of these similarities."""
    return logsumexp([exponent(s) for s in similarities])


def circle(batch: Fields, outputs: Fields, *, gamma: float = 80.0, margin: float = 0.4) -> float:
    """C9, circle: mean over anchors with both a positive and a negative of softplus(N + P).

    N = logsumexp_n g (s_n + m)^+ (s_n - m), P = logsumexp_p -g (1 + m - s_p)^+ (s_p - 1 + m), g gamma, m margin.
    """

    def negative(s: float) -> float:
        return gamma * max(s + margin, 0.0) * (s - margin)

    def positive(s: float) -> float:
        return -gamma * max(1.0 + margin - s, 0.0) * (s - (1.0 - margin))

    terms = []
    for positives, negatives in neighbours(batch, outputs):
        if positives and negatives:
            terms.append(softplus(spread(negatives, negative) + spread(positives, positive)))
    return mean(terms)


def multi_similarity(
    batch: Fields, outputs: Fields, *, alpha: float = 2.0, beta: float = 50.0, base: float = 0.5
) -> float:
    """C9, multi-similarity: mean over all present anchors of P + N, each 0 where there is nothing to sum.

    P = log(1 + sum_p e^{-alpha (s_p - base)}) / alpha, N = log(1 + sum_n e^{beta (s_n - base)}) / beta.
    """
    terms = []
    for positives, negatives in neighbours(batch, outputs):
        pull = logsumexp([0.0, *(-alpha * (s - base) for s in positives)]) / alpha
        push = logsumexp([0.0, *(beta * (s - base) for s in negatives)]) / beta
        terms.append(pull + push)
    return mean(terms)
