"""Weights, counts and the aggregation modes.

Token weight: m[b,t] = token_mask[b,t+1] * sample_mask[b] for t = 0 .. S-2. A weight of 0 means: never look at it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .numerics import log_softmax

Fields = Mapping[str, NDArray[Any]]
TokenTerms = dict[tuple[int, int], float]  # (b, t) -> value, t speaks of token t+1


def row_weight(batch: Fields, b: int) -> float:
    """sample_mask[b], 1 where the batch has no sample_mask."""
    return float(batch["sample_mask"][b]) if "sample_mask" in batch else 1.0


def live_tokens(batch: Fields) -> list[tuple[int, int]]:
    """All (b, t) with m[b,t] != 0."""
    rows, width = batch["token_mask"].shape
    live = []
    for b in range(rows):
        for t in range(width - 1):
            if row_weight(batch, b) != 0.0 and float(batch["token_mask"][b, t + 1]) != 0.0:
                live.append((b, t))
    return live


def whole_answers(batch: Fields) -> dict[str, Any]:
    """The batch with every token trained from a row's first trained one to the end of the row, and no global count of tokens."""
    mask = np.zeros_like(batch["token_mask"])
    for b, t in live_tokens(batch):
        mask[b, t + 1 :] = 1.0
    return {name: x for name, x in batch.items() if name != "global_valid_toks"} | {"token_mask": mask}


def token_count(batch: Fields) -> float:
    """max(T_g, 1); T_g = global_valid_toks, or else sum_{b,t} m[b,t]."""
    if "global_valid_toks" in batch:
        return max(float(batch["global_valid_toks"]), 1.0)
    total = 0.0
    for b, t in live_tokens(batch):
        total += float(batch["token_mask"][b, t + 1]) * row_weight(batch, b)
    return max(total, 1.0)


def sequence_count(batch: Fields, rows: int) -> float:
    """max(S_g, 1); S_g = global_valid_seqs, or else sum_b sample_mask[b]."""
    if "global_valid_seqs" in batch:
        return max(float(batch["global_valid_seqs"]), 1.0)
    return max(sum(row_weight(batch, b) for b in range(rows)), 1.0)


def pair_weights(batch: Fields, rows: int) -> list[float]:
    """w_n = min(sample_mask[2n], sample_mask[2n+1]); an odd number of rows is an error."""
    if rows % 2 != 0:
        raise ValueError(f"interleaved pairs need an even number of rows, got {rows}")
    return [min(row_weight(batch, 2 * n), row_weight(batch, 2 * n + 1)) for n in range(rows // 2)]


def pair_count(batch: Fields, weights: list[float]) -> float:
    """max(S_g / 2, 1) where global_valid_seqs is given, or else max(sum_n w_n, 1)."""
    if "global_valid_seqs" in batch:
        return max(float(batch["global_valid_seqs"]) / 2.0, 1.0)
    return max(sum(weights), 1.0)


def next_token_logprob(batch: Fields, outputs: Fields, b: int, t: int) -> float:
    """lp[b,t] = next_token_logprobs[b,t], or else log_softmax(logits[b,t])[input_ids[b,t+1]]."""
    if "next_token_logprobs" in outputs:
        return float(outputs["next_token_logprobs"][b, t])
    logits = [float(z) for z in outputs["logits"][b, t]]
    return log_softmax(logits)[int(batch["input_ids"][b, t + 1])]


def aggregate(terms: TokenTerms, batch: Fields, aggregation: str, max_length: float | None) -> float:
    """Reduce the per-token terms l[b,t] of the live tokens; tm = token_mask[:, 1:], s = sample_mask.

    token_mean          sum_bt s_b tm_bt l_bt / T_g
    seq_mean_token_mean (1/S_g) sum_b s_b (sum_t tm_bt l_bt) / max(sum_t tm_bt, 1)
    seq_mean_token_sum  (1/S_g) sum_b s_b (sum_t tm_bt l_bt)
    fixed               sum_bt s_b tm_bt l_bt / (S_g max_length)
    T_g and S_g are clamped to at least 1.
    """
    rows = batch["token_mask"].shape[0]
    total = 0.0
    for b in range(rows):
        row_sum = 0.0
        row_tokens = 0.0
        for (row, t), value in terms.items():
            if row == b:
                row_sum += float(batch["token_mask"][b, t + 1]) * value
                row_tokens += float(batch["token_mask"][b, t + 1])
        if row_tokens == 0.0:
            continue
        if aggregation == "seq_mean_token_mean":
            row_sum /= max(row_tokens, 1.0)
        total += row_weight(batch, b) * row_sum
    if aggregation == "token_mean":
        return total / token_count(batch)
    if aggregation in ("seq_mean_token_mean", "seq_mean_token_sum"):
        return total / sequence_count(batch, rows)
    if aggregation == "fixed":
        if max_length is None:
            raise ValueError("aggregation 'fixed' needs max_length")
        return total / (sequence_count(batch, rows) * max_length)
    raise ValueError(f"unknown aggregation {aggregation!r}")
