"""Distillation over K entries of the vocabulary instead of all."""

import math

from .auxiliary import largest
from .counts import Fields, TokenTerms, aggregate, live_tokens
from .distillation import kl
from .numerics import log_softmax, logsumexp

Logprobs = tuple[list[float], list[float]]  # of the teacher, of the student
FLOOR = -100.0  # the log-probability that stands for the teacher's 0 outside its top entries


def tempered(fields: Fields, name: str, b: int, t: int, temperature: float) -> list[float]:
    """logits / temperature at position t of row b."""
    return [float(z) / temperature for z in fields[name][b, t]]


def teacher_top(batch: Fields, b: int, t: int, k: int, temperature: float) -> tuple[list[int], list[float]]:
    """The teacher's top entries and its log-probs renormalised over them: those given, or the k largest of all."""
    if "teacher_topk_indices" in batch:
        entries = [int(v) for v in batch["teacher_topk_indices"][b, t]]
        return entries, log_softmax(tempered(batch, "teacher_topk_logits", b, t, temperature))
    teacher = tempered(batch, "teacher_logits", b, t, temperature)
    entries = largest(teacher, k)
    return entries, log_softmax([teacher[v] for v in entries])


def blended(kl_type: str, weight: float, forward: Logprobs, reverse: Logprobs) -> float:
    """KL(p || q) of forward = (log p, log q), KL(q || p) of reverse, or weight of one and 1 - weight of the other.

    A side of weight 0 is not evaluated.
    """
    if kl_type not in ("forward", "reverse", "mixed"):
        raise ValueError(f"unknown kl_type {kl_type!r}")
    if kl_type != "mixed":
        weight = 1.0 if kl_type == "forward" else 0.0
    value = 0.0
    if weight != 0.0:
        value += weight * kl(*forward)
    if weight != 1.0:
        value += (1.0 - weight) * kl(reverse[1], reverse[0])
    return value


def topk_renorm(
    batch: Fields,
    outputs: Fields,
    *,
    k: int = 64,
    kl_type: str = "forward",
    mixed_kl_weight: float = 0.5,
    temperature: float = 1.0,
) -> float:
    """D9 i: the KL of teacher and student, both renormalised over the teacher's top entries; token mean."""
    terms: TokenTerms = {}
    for b, t in live_tokens(batch):
        entries, log_p = teacher_top(batch, b, t, k, temperature)
        student = tempered(outputs, "logits", b, t, temperature)
        log_q = log_softmax([student[v] for v in entries])
        terms[b, t] = blended(kl_type, mixed_kl_weight, (log_p, log_q), (log_p, log_q))
    return aggregate(terms, batch, "token_mean", None)


def zero_outside_topk(
    batch: Fields,
    outputs: Fields,
    *,
    k: int = 64,
    kl_type: str = "forward",
    mixed_kl_weight: float = 0.5,
    temperature: float = 1.0,
) -> float:
    """D9 ii: the student's q over the whole vocabulary, the teacher's p renormalised over its top entries; token mean.

    forward  sum_top p (log p - log q)
    reverse  sum_top q (log q - log p) + sum_rest q (log q + 100)
    """
    terms: TokenTerms = {}
    for b, t in live_tokens(batch):
        entries, log_p = teacher_top(batch, b, t, k, temperature)
        log_q = log_softmax(tempered(outputs, "logits", b, t, temperature))
        everywhere = [FLOOR] * len(log_q)
        for v, lp in zip(entries, log_p, strict=True):
            everywhere[v] = lp
        on_top = [log_q[v] for v in entries]
        terms[b, t] = blended(kl_type, mixed_kl_weight, (log_p, on_top), (everywhere, log_q))
    return aggregate(terms, batch, "token_mean", None)


def with_tail(logprobs: list[float], entries: list[int]) -> list[float]:
    """The log-probs of these entries, and log(1 - their sum) with the log of the sum held to at most -1e-7."""
    kept = [logprobs[v] for v in entries]
    return [*kept, math.log(-math.expm1(min(logsumexp(kept), -1e-7)))]


def tail_bucket(
    batch: Fields, outputs: Fields, *, k: int = 64, kl_type: str = "forward", temperature: float = 1.0
) -> float:
    """D9 iii: the KL over k entries and one bucket of all the rest; token mean.

    forward KL(p || q) on the teacher's k largest, reverse KL(q || p) on the student's.
    """
    if kl_type not in ("forward", "reverse"):
        raise ValueError(f"unknown kl_type {kl_type!r}")
    terms: TokenTerms = {}
    for b, t in live_tokens(batch):
        log_p = log_softmax(tempered(batch, "teacher_logits", b, t, temperature))
        log_q = log_softmax(tempered(outputs, "logits", b, t, temperature))
        first, second = (log_p, log_q) if kl_type == "forward" else (log_q, log_p)
        entries = largest(first, k)
        terms[b, t] = kl(with_tail(first, entries), with_tail(second, entries))
    return aggregate(terms, batch, "token_mean", None)
