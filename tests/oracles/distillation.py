"""Distillation losses."""

import math

from .counts import Fields, TokenTerms, aggregate, live_tokens
from .numerics import log_softmax


def kl(log_a: list[float], log_b: list[float]) -> float:
    """KL(a || b) = sum_v a_v (log a_v - log b_v); a_v = 0 adds 0, a_v > 0 with b_v = 0 gives inf."""
    total = 0.0
    for la, lb in zip(log_a, log_b, strict=True):
        if la > -math.inf:
            total += math.exp(la) * (la - lb) if lb > -math.inf else math.inf
    return total


def cross_entropy(log_p: list[float], log_q: list[float]) -> float:
    """-sum_v p_v log q_v; p_v = 0 adds 0."""
    return -sum(math.exp(lp) * lq for lp, lq in zip(log_p, log_q, strict=True) if lp > -math.inf)


def teacher_and_student(
    batch: Fields, outputs: Fields, b: int, t: int, temperature: float
) -> tuple[list[float], list[float]]:
    """(log p, log q) at position t of row b; p teacher, q student, both softmax(logits / temperature).

    With teacher_logits over the whole vocabulary, or else topk_renorm(i): over the teacher's top-K entries, the student's
    logits gathered there, both renormalised within K.
    """
    student = [float(z) / temperature for z in outputs["logits"][b, t]]
    if "teacher_logits" in batch:
        teacher = [float(z) / temperature for z in batch["teacher_logits"][b, t]]
    else:
        teacher = [float(z) / temperature for z in batch["teacher_topk_logits"][b, t]]
        student = [student[int(v)] for v in batch["teacher_topk_indices"][b, t]]
    return log_softmax(teacher), log_softmax(student)


def forward_kl(batch: Fields, outputs: Fields, *, temperature: float = 1.0) -> float:
    """sum_bt m[b,t] sum_v p (log p - log q) / T_g; position t of the logits speaks of token t+1."""
    terms: TokenTerms = {}
    for b, t in live_tokens(batch):
        log_p, log_q = teacher_and_student(batch, outputs, b, t, temperature)
        terms[b, t] = kl(log_p, log_q)
    return aggregate(terms, batch, "token_mean", None)


def reverse_kl(batch: Fields, outputs: Fields, *, temperature: float = 1.0) -> float:
    """sum_bt m[b,t] sum_v q (log q - log p) / T_g."""
    terms: TokenTerms = {}
    for b, t in live_tokens(batch):
        log_p, log_q = teacher_and_student(batch, outputs, b, t, temperature)
        terms[b, t] = kl(log_q, log_p)
    return aggregate(terms, batch, "token_mean", None)


def mixed_kl(
    batch: Fields,
    outputs: Fields,
    *,
    temperature: float = 1.0,
    mixed_kl_weight: float = 0.5,
    forward_part: str = "kl",
) -> float:
    """w forward_kl + (1 - w) reverse_kl; a side of weight 0 is not evaluated (0 * inf never arises).

    With forward_part "cross_entropy" -sum_v p log q stands for the forward side.
    """
    compared = {"kl": kl, "cross_entropy": cross_entropy}[forward_part]
    total = 0.0
    if mixed_kl_weight != 0.0:
        terms: TokenTerms = {}
        for b, t in live_tokens(batch):
            terms[b, t] = compared(*teacher_and_student(batch, outputs, b, t, temperature))
        total += mixed_kl_weight * aggregate(terms, batch, "token_mean", None)
    if mixed_kl_weight != 1.0:
        total += (1.0 - mixed_kl_weight) * reverse_kl(batch, outputs, temperature=temperature)
    return total
