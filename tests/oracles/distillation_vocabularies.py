"""Distillation between vocabularies that differ: V entries of the student, U of the teacher."""

import math
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from .auxiliary import largest
from .counts import Fields, TokenTerms, aggregate, live_tokens, row_weight, sequence_count
from .distillation import kl
from .distillation_divergences import jensen_shannon
from .distillation_topk import tempered
from .numerics import log_softmax, logsumexp
from .supervised import nll

REST = 8192  # of the entries without a counterpart, at most this many (the largest) of each side are compared


def sorted_distance(log_p: list[float], log_q: list[float], limit: int | None = None) -> float:
    """sum_i |p_(i) - q_(i)| of both sides in falling order, the shorter one followed by zeros."""
    falling = [sorted((math.exp(x) for x in side), reverse=True)[:limit] for side in (log_p, log_q)]
    width = max(len(side) for side in falling)
    p, q = ([*side, *[0.0] * (width - len(side))] for side in falling)
    return sum(abs(x - y) for x, y in zip(p, q, strict=True))


def both_models(batch: Fields, outputs: Fields, b: int, t: int, temperature: float) -> tuple[list[float], list[float]]:
    """(log p, log q) at position t, of U and of V entries."""
    return (
        log_softmax(tempered(batch, "teacher_logits", b, t, temperature)),
        log_softmax(tempered(outputs, "logits", b, t, temperature)),
    )


def uld(batch: Fields, outputs: Fields, *, crossentropy_weight: float = 0.0, temperature: float = 1.0) -> float:
    """sorted_distance of p and q + crossentropy_weight nll, each the mean over rows of token means."""
    terms: TokenTerms = {}
    for b, t in live_tokens(batch):
        terms[b, t] = sorted_distance(*both_models(batch, outputs, b, t, temperature))
    value = aggregate(terms, batch, "seq_mean_token_mean", None)
    if crossentropy_weight != 0.0:
        value += crossentropy_weight * nll(batch, outputs, aggregation="seq_mean_token_mean")
    return value


def counterparts(vocabulary_map: Sequence[int] | None, students: int, teachers: int) -> list[tuple[int, int]]:
    """(student id, teacher id) of the matched entries; equal ids without a map."""
    if vocabulary_map is None:
        return [(v, v) for v in range(min(students, teachers))]
    return [(v, int(u)) for v, u in enumerate(vocabulary_map) if int(u) >= 0]


def unmatched(size: int, matched: Sequence[int]) -> list[int]:
    """The ids below size that are not matched."""
    return [i for i in range(size) if i not in matched]


def hybrid_uld(
    batch: Fields,
    outputs: Fields,
    *,
    vocabulary_map: Sequence[int] | None = None,
    beta: float = 0.5,
    matched_weight: float | None = None,
    unmatched_weight: float | None = None,
    temperature: float = 1.0,
) -> float:
    """w generalized_jsd over the matched entries + u sorted_distance of the others; the mean over rows of token means.

    Probabilities are of the whole vocabularies and not renormalised. w = matched entries / U and u = 1 - that, each
    where it is not given.
    """
    teachers, students = int(batch["teacher_logits"].shape[-1]), int(outputs["logits"].shape[-1])
    pairs = counterparts(vocabulary_map, students, teachers)
    own, others = [v for v, _ in pairs], [u for _, u in pairs]
    rest_student, rest_teacher = unmatched(students, own), unmatched(teachers, others)
    share = len(pairs) / teachers
    weight = share if matched_weight is None else matched_weight
    rest_weight = 1.0 - share if unmatched_weight is None else unmatched_weight
    terms: TokenTerms = {}
    for b, t in live_tokens(batch):
        log_p, log_q = both_models(batch, outputs, b, t, temperature)
        value = 0.0
        if weight != 0.0:
            value += weight * jensen_shannon([log_p[u] for u in others], [log_q[v] for v in own], beta)
        if rest_weight != 0.0:
            distance = sorted_distance([log_p[u] for u in rest_teacher], [log_q[v] for v in rest_student])
            value += rest_weight * distance
        terms[b, t] = value
    return aggregate(terms, batch, "seq_mean_token_mean", None)


def merged_logprobs(rows: list[list[float]], tokens: Sequence[int]) -> list[float]:
    """log of p_first(v) prod_j max(p_j(y_j), 1e-8) over the later positions j of a chunk.

    rows holds log p of the chunk's positions in order, tokens the token that follows each of them.
    """
    factor = math.prod(max(math.exp(row[y]), 1e-8) for row, y in zip(rows[1:], tokens[1:], strict=True))
    return [x + math.log(factor) for x in rows[0]]


def hybrid_uld_merged(
    batch: Fields,
    outputs: Fields,
    *,
    vocabulary_map: Sequence[int] | None = None,
    beta: float = 0.5,
    temperature: float = 1.0,
) -> float:
    """hybrid_uld of merged chunks, the mean over rows of the means over a row's chunks weighed by chunk_valid.

    Position t predicts token t + 1, so the last position of either side is in no chunk. A chunk without a position on
    either side is left out.
    """
    rows = outputs["logits"].shape[0]
    sides = {}
    for side, scores, ids in (
        ("student", outputs["logits"], batch["input_ids"]),
        ("teacher", batch["teacher_logits"], batch["teacher_input_ids"]),
    ):
        for b in range(rows):
            for c in range(batch["chunk_valid"].shape[1]):
                at = [t for t in range(scores.shape[1] - 1) if int(batch[f"{side}_chunk_ids"][b, t]) == c]
                sides[side, b, c] = (scores, b, at, [int(ids[b, t + 1]) for t in at])
    pairs = counterparts(vocabulary_map, int(outputs["logits"].shape[-1]), int(batch["teacher_logits"].shape[-1]))
    share = len(pairs) / int(batch["teacher_logits"].shape[-1])
    total = 0.0
    for row in range(rows):
        weighed, weights = 0.0, 0.0
        for c in range(batch["chunk_valid"].shape[1]):
            valid = float(batch["chunk_valid"][row, c])
            both = [sides[side, row, c] for side in ("teacher", "student")]
            if row_weight(batch, row) == 0.0 or valid == 0.0 or not both[0][2] or not both[1][2]:
                continue
            log_p, log_q = (
                merged_logprobs([log_softmax([float(z) / temperature for z in x[b, t]]) for t in at], tokens)
                for x, b, at, tokens in both
            )
            matched = jensen_shannon([log_p[u] for _, u in pairs], [log_q[v] for v, _ in pairs], beta)
            rest = sorted_distance(
                [log_p[u] for u in unmatched(len(log_p), [u for _, u in pairs])],
                [log_q[v] for v in unmatched(len(log_q), [v for v, _ in pairs])],
            )
            weighed += valid * (share * matched + (1.0 - share) * rest)
            weights += valid
        if weights != 0.0:
            total += row_weight(batch, row) * weighed / weights
    return total / sequence_count(batch, rows)


Chunk = tuple[int, float, list[int], list[int]]  # row, weight, the student's positions, the teacher's positions


def weighed_chunks(batch: Fields) -> list[Chunk]:
    """The chunks of weight chunk_valid sample_mask not 0 that have a position on either side."""
    rows, count = batch["chunk_valid"].shape
    found = []
    for b in range(rows):
        for c in range(count):
            valid = float(batch["chunk_valid"][b, c])
            sides = [
                [t for t, chunk in enumerate(batch[name][b]) if int(chunk) == c]
                for name in ("student_chunk_ids", "teacher_chunk_ids")
            ]
            if row_weight(batch, b) != 0.0 and valid != 0.0 and sides[0] and sides[1]:
                found.append((b, row_weight(batch, b) * valid, sides[0], sides[1]))
    return found


def chunk_mean(batch: Fields, terms: list[tuple[float, float]]) -> float:
    """sum weight term / chunks of (weight, term); chunks = global_valid_chunks, or else sum weight, at least 1."""
    count = batch["global_valid_chunks"] if "global_valid_chunks" in batch else sum(weight for weight, _ in terms)
    return sum(weight * term for weight, term in terms) / max(float(count), 1.0)


def average(columns: list[list[float]]) -> list[float]:
    """The mean of several lists, entry by entry."""
    return [sum(entries) / len(entries) for entries in zip(*columns, strict=True)]


def projected(log_q: list[float], entries: list[int], projection: NDArray[Any] | None) -> list[float]:
    """log sum_v q_v M[v, u] for these entries u of the teacher; M the identity without a projection."""
    found = []
    for u in entries:
        parts = [-math.inf]
        for v, lq in enumerate(log_q):
            factor = float(v == u) if projection is None else float(projection[v][u])
            if factor != 0.0:
                parts.append(lq + math.log(factor))
        found.append(logsumexp(parts))
    return found


def xtoken_pkl(
    batch: Fields,
    outputs: Fields,
    *,
    projection: NDArray[Any] | None = None,
    k: int = 64,
    temperature: float = 1.0,
) -> float:
    """T^2 times the chunk mean of sum_u e^{p_u} (p_u - q_u) over the batch's k leading teacher entries u.

    The leading entries are those with the largest logit anywhere in a weighed chunk. p: mean over the chunk's teacher
    positions of log p, p renormalised over the leading entries. q: log of the mean over the chunk's student positions
    of the projected q, that mean renormalised over the leading entries.
    """
    chunks = weighed_chunks(batch)
    logits = [batch["teacher_logits"][b, t] for b, _, _, positions in chunks for t in positions]
    leading = largest([max(float(z[u]) for z in logits) for u in range(len(logits[0]))], k) if logits else []
    terms = []
    for b, weight, own, others in chunks:
        student = []
        for t in own:
            log_q = log_softmax(tempered(outputs, "logits", b, t, temperature))
            student.append(projected(log_q, leading, projection))
        teacher = []
        for t in others:
            top = tempered(batch, "teacher_logits", b, t, temperature)
            teacher.append(log_softmax([top[u] for u in leading]))
        mean_student = log_softmax([logsumexp(entries) for entries in zip(*student, strict=True)])
        terms.append((weight, kl(average(teacher), mean_student)))
    return temperature * temperature * chunk_mean(batch, terms)


def exact_counterparts(projection: NDArray[Any] | None, students: int, teachers: int) -> list[tuple[int, int]]:
    """(student id, teacher id) where the student's row of the projection is a single 1; the first row to a teacher id."""
    if projection is None:
        return counterparts(None, students, teachers)
    pairs: list[tuple[int, int]] = []
    for v in range(students):
        entries = [u for u in range(teachers) if float(projection[v][u]) != 0.0]
        if len(entries) == 1 and float(projection[v][entries[0]]) == 1.0 and entries[0] not in [u for _, u in pairs]:
            pairs.append((v, entries[0]))
    return pairs


def xtoken_gold(
    batch: Fields, outputs: Fields, *, projection: NDArray[Any] | None = None, temperature: float = 1.0
) -> float:
    """T^2 times the chunk mean of sum_common e^{p_u} (p_u - q_v) + sorted_distance of the entries not in common.

    p and q are means over the chunk's positions of the log-probs of the whole vocabularies, not renormalised.
    """
    teachers, students = int(batch["teacher_logits"].shape[-1]), int(outputs["logits"].shape[-1])
    pairs = exact_counterparts(projection, students, teachers)
    rest_student = unmatched(students, [v for v, _ in pairs])
    rest_teacher = unmatched(teachers, [u for _, u in pairs])
    terms = []
    for b, weight, own, others in weighed_chunks(batch):
        log_q = average([log_softmax(tempered(outputs, "logits", b, t, temperature)) for t in own])
        log_p = average([log_softmax(tempered(batch, "teacher_logits", b, t, temperature)) for t in others])
        common = kl([log_p[u] for _, u in pairs], [log_q[v] for v, _ in pairs])
        rest = sorted_distance([log_p[u] for u in rest_teacher], [log_q[v] for v in rest_student], REST)
        terms.append((weight, common + rest))
    return temperature * temperature * chunk_mean(batch, terms)
