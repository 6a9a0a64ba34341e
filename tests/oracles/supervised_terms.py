"""Supervised losses whose token term is more than -lp.

Token-wise unless said: a term l[b,t] of the target y = token t+1, aggregated as nll is.
"""

import math
from collections.abc import Callable, Sequence

from .counts import Fields, aggregate, live_tokens, next_token_logprob, row_weight, token_count
from .numerics import log_softmax, logsumexp


def aggregated(
    batch: Fields, term: Callable[[int, int], float], aggregation: str = "token_mean", max_length: float | None = None
) -> float:
    """term(b, t) of every live token, aggregated."""
    return aggregate({(b, t): term(b, t) for b, t in live_tokens(batch)}, batch, aggregation, max_length)


def vocabulary_logits(outputs: Fields, b: int, t: int, softcap: float | None = None) -> list[float]:
    """z_v for every v, at position t of row b; with softcap s tanh(z_v / s)."""
    z = [float(x) for x in outputs["logits"][b, t]]
    return z if softcap is None else [softcap * math.tanh(x / softcap) for x in z]


def vocabulary_logprobs(outputs: Fields, b: int, t: int, softcap: float | None = None) -> list[float]:
    """log p_v for every v, at position t of row b."""
    return log_softmax(vocabulary_logits(outputs, b, t, softcap))


def target(batch: Fields, b: int, t: int) -> int:
    """The token that position t predicts."""
    return int(batch["input_ids"][b, t + 1])


def label_smoothed_ce(
    batch: Fields,
    outputs: Fields,
    *,
    label_smoothing: float = 0.1,
    spread: str = "vocabulary",
    softcap: float | None = None,
    aggregation: str = "token_mean",
    max_length: float | None = None,
) -> float:
    """(1-e) (-log p_y) + e mean_v (-log p_v), the mean over all V tokens, or over the V-1 others than y.

    softcap as in vocabulary_logits.
    """
    if spread not in ("vocabulary", "others"):
        raise ValueError(f"unknown spread {spread!r}")
    e = label_smoothing

    def term(b: int, t: int) -> float:
        logprobs = vocabulary_logprobs(outputs, b, t, softcap)
        y = target(batch, b, t)
        value = 0.0
        if e != 1.0:
            value += (1.0 - e) * -logprobs[y]
        if e != 0.0:
            shared = logprobs if spread == "vocabulary" else logprobs[:y] + logprobs[y + 1 :]
            value += e * -sum(shared) / len(shared)
        return value

    return aggregated(batch, term, aggregation, max_length)


def weighted_nll(
    batch: Fields,
    outputs: Fields,
    *,
    divisor: str = "tokens",
    aggregation: str = "token_mean",
    max_length: float | None = None,
) -> float:
    """w (-lp), w = token_weights; with divisor "weights": sum w m (-lp) / max(sum w m, 1)."""
    if divisor not in ("tokens", "weights"):
        raise ValueError(f"unknown divisor {divisor!r}")
    if divisor == "weights" and aggregation != "token_mean":
        raise ValueError("divisor 'weights' goes with aggregation 'token_mean' only")

    def term(b: int, t: int) -> float:
        weight = float(batch["token_weights"][b, t + 1])
        return 0.0 if weight == 0.0 else weight * -next_token_logprob(batch, outputs, b, t)

    if divisor == "tokens":
        return aggregated(batch, term, aggregation, max_length)
    total = 0.0
    weights = 0.0
    for b, t in live_tokens(batch):
        m = float(batch["token_mask"][b, t + 1]) * row_weight(batch, b)
        total += m * term(b, t)
        weights += m * float(batch["token_weights"][b, t + 1])
    return total / max(weights, 1.0)


def focal_ce(
    batch: Fields,
    outputs: Fields,
    *,
    gamma: float = 2.0,
    alpha: float = 1.0,
    detach_weight: bool = False,
    aggregation: str = "token_mean",
    max_length: float | None = None,
) -> float:
    """alpha (1 - p_y)^gamma (-log p_y); detach_weight is about the gradient alone."""

    def term(b: int, t: int) -> float:
        lp = next_token_logprob(batch, outputs, b, t)
        return alpha * math.pow(max(-math.expm1(lp), 0.0), gamma) * -lp

    return aggregated(batch, term, aggregation, max_length)


def poly1_ce(
    batch: Fields,
    outputs: Fields,
    *,
    epsilon: float = 2.0,
    aggregation: str = "token_mean",
    max_length: float | None = None,
) -> float:
    """-log p_y + epsilon (1 - p_y)."""

    def term(b: int, t: int) -> float:
        lp = next_token_logprob(batch, outputs, b, t)
        return -lp - epsilon * math.expm1(lp)

    return aggregated(batch, term, aggregation, max_length)


def z_loss(
    batch: Fields,
    outputs: Fields,
    *,
    coefficient: float = 1e-4,
    softcap: float | None = None,
    aggregation: str = "token_mean",
    max_length: float | None = None,
) -> float:
    """coefficient logsumexp(z)^2 of the logits z at the position; softcap as in vocabulary_logits."""

    def term(b: int, t: int) -> float:
        return coefficient * logsumexp(vocabulary_logits(outputs, b, t, softcap)) ** 2

    return aggregated(batch, term, aggregation, max_length)


def dft(batch: Fields, outputs: Fields, *, aggregation: str = "token_mean", max_length: float | None = None) -> float:
    """-p log p of the target, p = e^lp; 0 at p = 0."""

    def term(b: int, t: int) -> float:
        lp = next_token_logprob(batch, outputs, b, t)
        return -math.exp(lp) * lp if lp > -math.inf else 0.0

    return aggregated(batch, term, aggregation, max_length)


def is_trained(batch: Fields, b: int, position: int) -> bool:
    """Whether the token at this position of row b is trained on; the first token of a row never is."""
    return position >= 1 and float(batch["token_mask"][b, position]) != 0.0


def context_tokens(batch: Fields, b: int, t: int) -> set[int]:
    """The distinct ids of row b's trained tokens at positions up to t, without the target."""
    seen = {int(batch["input_ids"][b, i]) for i in range(t + 1) if is_trained(batch, b, i)}
    return seen - {target(batch, b, t)}


def trained_ngram(batch: Fields, b: int, end: int, n: int) -> tuple[int, ...] | None:
    """The n tokens of row b ending at this position, or None where not all of them are trained."""
    positions = range(end - n + 1, end + 1)
    if not all(is_trained(batch, b, i) for i in positions):
        return None
    return tuple(int(batch["input_ids"][b, i]) for i in positions)


def repeated_token(batch: Fields, b: int, t: int, n: int) -> set[int]:
    """{target} where the trained n-gram that it ends has ended at an earlier position too, else the empty set."""
    last = trained_ngram(batch, b, t + 1, n)
    if last is None or all(trained_ngram(batch, b, end, n) != last for end in range(t + 1)):
        return set()
    return {target(batch, b, t)}


def log_others(logprobs: list[float], c: int) -> float:
    """log(1 - p_c), for a large p_c as the log of all the other probabilities' sum."""
    if logprobs[c] < -math.log(2.0):
        return math.log1p(-math.exp(logprobs[c]))
    return logsumexp(logprobs[:c] + logprobs[c + 1 :])


def unlikelihood(
    batch: Fields,
    outputs: Fields,
    *,
    alpha: float = 1.0,
    candidates: str = "context",
    ngram: int = 4,
    aggregation: str = "token_mean",
    max_length: float | None = None,
) -> float:
    """-log p_y - alpha sum_{c in C_t} log(1 - p_c).

    C_t is context_tokens ("context") or repeated_token ("repeated_ngrams").
    """
    if candidates not in ("context", "repeated_ngrams"):
        raise ValueError(f"unknown candidates {candidates!r}")

    def term(b: int, t: int) -> float:
        value = -next_token_logprob(batch, outputs, b, t)
        if alpha == 0.0:
            return value
        unwanted = context_tokens(batch, b, t) if candidates == "context" else repeated_token(batch, b, t, ngram)
        logprobs = vocabulary_logprobs(outputs, b, t)
        return value - alpha * sum(log_others(logprobs, c) for c in unwanted)

    return aggregated(batch, term, aggregation, max_length)


def confidence_penalty(
    batch: Fields,
    outputs: Fields,
    *,
    coefficient: float = 0.1,
    aggregation: str = "token_mean",
    max_length: float | None = None,
) -> float:
    """-log p_y - coefficient H(p), H(p) = -sum_v p_v log p_v with 0 log 0 = 0."""

    def term(b: int, t: int) -> float:
        logprobs = vocabulary_logprobs(outputs, b, t)
        entropy = -sum(math.exp(lp) * lp for lp in logprobs if lp > -math.inf)
        return -logprobs[target(batch, b, t)] - coefficient * entropy

    return aggregated(batch, term, aggregation, max_length)


def mtp_ce(batch: Fields, outputs: Fields, *, head_weights: Sequence[float] | None = None) -> float:
    """sum_d lambda_d sum_bt token_mask[b,t+d] sample_mask[b] (-log p_d(token t+d)) / T.

    Head d = 1 .. H is mtp_logits[b, t, d-1]; T = global_valid_toks or head 1's sum of weights.
    """
    rows, width, heads, _ = outputs["mtp_logits"].shape
    weights = [1.0] * heads if head_weights is None else [float(w) for w in head_weights]
    if len(weights) != heads:
        raise ValueError(f"head_weights has {len(weights)} numbers for {heads} heads")
    total = 0.0
    for d in range(1, heads + 1):
        for b in range(rows):
            for t in range(width - d):
                row, token = row_weight(batch, b), float(batch["token_mask"][b, t + d])
                if 0.0 in (row, token, weights[d - 1]):
                    continue
                logprobs = log_softmax([float(z) for z in outputs["mtp_logits"][b, t, d - 1]])
                total += weights[d - 1] * row * token * -logprobs[int(batch["input_ids"][b, t + d])]
    return total / token_count(batch)
