"""Distillation by a divergence of the teacher's p and the student's q at every position, averaged over tokens.

p, q = softmax(logits / temperature) over the vocabulary, or over the teacher's top K entries where only those are given.
"""

import math
from collections.abc import Callable

from .contrastive_pairs import dot, unit
from .counts import Fields, TokenTerms, aggregate, live_tokens
from .distillation import cross_entropy, forward_kl, kl, teacher_and_student
from .numerics import log_softmax, logsumexp
from .supervised import nll
from .supervised_terms import target

Divergence = Callable[[list[float], list[float]], float]  # of log p and log q


def divergence_mean(batch: Fields, outputs: Fields, temperature: float, divergence: Divergence) -> float:
    """sum m divergence(log p, log q) / T_g."""
    terms: TokenTerms = {}
    for b, t in live_tokens(batch):
        terms[b, t] = divergence(*teacher_and_student(batch, outputs, b, t, temperature))
    return aggregate(terms, batch, "token_mean", None)


def log_mixture(log_a: list[float], log_b: list[float], weight: float) -> list[float]:
    """log(weight a + (1 - weight) b), entry by entry."""
    if weight == 0.0:
        return log_b
    if weight == 1.0:
        return log_a
    share_a, share_b = math.log(weight), math.log1p(-weight)
    return [logsumexp([la + share_a, lb + share_b]) for la, lb in zip(log_a, log_b, strict=True)]


def jensen_shannon(log_p: list[float], log_q: list[float], beta: float) -> float:
    """beta KL(p || M) + (1 - beta) KL(q || M), M = beta p + (1 - beta) q; KL(p || q) at 0 and KL(q || p) at 1."""
    if beta == 0.0:
        return kl(log_p, log_q)
    if beta == 1.0:
        return kl(log_q, log_p)
    middle = log_mixture(log_p, log_q, beta)
    return beta * kl(log_p, middle) + (1.0 - beta) * kl(log_q, middle)


def soft_ce(batch: Fields, outputs: Fields, *, temperature: float = 1.0) -> float:
    """-sum_v p log q, which is forward_kl and the teacher's entropy."""
    return divergence_mean(batch, outputs, temperature, cross_entropy)


def generalized_jsd(batch: Fields, outputs: Fields, *, beta: float = 0.5, temperature: float = 1.0) -> float:
    """jensen_shannon, whose end points are forward_kl and reverse_kl and no limits of what lies between."""
    return divergence_mean(batch, outputs, temperature, lambda log_p, log_q: jensen_shannon(log_p, log_q, beta))


def skew_forward_kl(
    batch: Fields, outputs: Fields, *, skew: float = 0.1, temperature: float = 1.0, forward_part: str = "kl"
) -> float:
    """KL(p || skew p + (1 - skew) q), or the cross entropy of the two."""
    compared = {"kl": kl, "cross_entropy": cross_entropy}[forward_part]

    def divergence(log_p: list[float], log_q: list[float]) -> float:
        return compared(log_p, log_mixture(log_p, log_q, skew))

    return divergence_mean(batch, outputs, temperature, divergence)


def skew_reverse_kl(batch: Fields, outputs: Fields, *, skew: float = 0.1, temperature: float = 1.0) -> float:
    """KL(q || skew q + (1 - skew) p)."""

    def divergence(log_p: list[float], log_q: list[float]) -> float:
        return kl(log_q, log_mixture(log_q, log_p, skew))

    return divergence_mean(batch, outputs, temperature, divergence)


def tvd(batch: Fields, outputs: Fields, *, temperature: float = 1.0) -> float:
    """1/2 sum_v |p - q|."""

    def divergence(log_p: list[float], log_q: list[float]) -> float:
        return 0.5 * sum(abs(math.exp(lp) - math.exp(lq)) for lp, lq in zip(log_p, log_q, strict=True))

    return divergence_mean(batch, outputs, temperature, divergence)


def tempered_nll(batch: Fields, outputs: Fields, temperature: float) -> float:
    """nll of softmax(logits / temperature)."""
    terms: TokenTerms = {}
    for b, t in live_tokens(batch):
        logprobs = log_softmax([float(z) / temperature for z in outputs["logits"][b, t]])
        terms[b, t] = -logprobs[target(batch, b, t)]
    return aggregate(terms, batch, "token_mean", None)


def hinton_kd(
    batch: Fields,
    outputs: Fields,
    *,
    alpha: float = 0.5,
    temperature: float = 2.0,
    temper_hard: bool = False,
    scale_soft: bool = True,
) -> float:
    """(1 - alpha) nll + alpha T^2 forward_kl(T).

    nll is at temperature 1, or at T too with temper_hard; T^2 is left out without scale_soft; a side of weight 0 is
    not evaluated.
    """
    total = 0.0
    if alpha != 1.0:
        total += (1.0 - alpha) * tempered_nll(batch, outputs, temperature if temper_hard else 1.0)
    if alpha != 0.0:
        scale = temperature * temperature if scale_soft else 1.0
        total += alpha * scale * forward_kl(batch, outputs, temperature=temperature)
    return total


def cosine_distill(batch: Fields, outputs: Fields, *, beta: float = 0.5, hard_weight: float = 0.0) -> float:
    """beta (1 - cos(z_S, z_T)) of the logits as they are, + hard_weight nll; norms floored at 1e-8."""
    terms: TokenTerms = {}
    for b, t in live_tokens(batch):
        student = unit([float(z) for z in outputs["logits"][b, t]])
        teacher = unit([float(z) for z in batch["teacher_logits"][b, t]])
        terms[b, t] = beta * (1.0 - dot(student, teacher))
    total = aggregate(terms, batch, "token_mean", None)
    return total + hard_weight * nll(batch, outputs) if hard_weight != 0.0 else total
