"""The batch vocabulary: every field a loss may read, what it means, and how it is aligned with the tokens.

Shapes: B sequences, S tokens, V vocabulary, K top-k, D features, N pairs. A tensor of shape [B, S] is aligned with
``input_ids``: entry t speaks of token t and entry 0 means nothing. ``next_token_logprobs`` is [B, S-1] and its entry t
speaks of token t+1, as does position t of ``logits``. Preference pairs are interleaved: rows 0, 2, 4, ... chosen,
rows 1, 3, 5, ... rejected.
"""

from __future__ import annotations

from typing import Final

from loss_reference.contract import Field

__all__ = ["BATCH_FIELDS", "MODEL_OUTPUT_FIELDS"]

BATCH_FIELDS: Final[dict[str, Field]] = {
    "input_ids": Field("token_ids", "B S"),
    "input_lengths": Field("lengths", "B"),
    "token_mask": Field("mask", "B S"),
    "sample_mask": Field("mask", "B"),
    "reference_policy_logprobs": Field("logprobs", "B S"),
    "reference_logits": Field("logits", "B S V"),
    "prev_logprobs": Field("logprobs", "B S"),
    "generation_logprobs": Field("logprobs", "B S"),
    "advantages": Field("advantages", "B S"),
    "returns": Field("values", "B S"),
    "values": Field("values", "B S"),
    "rewards": Field("rewards", "B"),
    "labels": Field("labels", "B"),
    "document_ids": Field("labels", "B S"),
    "teacher_logits": Field("logits", "B S V"),
    "teacher_logprobs": Field("logprobs", "B S"),
    "teacher_topk_logits": Field("logits", "B S K"),
    "teacher_topk_indices": Field("token_ids", "B S K"),
    "positive_pairs": Field("pairs", "N 2"),
    "negative_pairs": Field("pairs", "N 2"),
    "global_valid_toks": Field("count", ""),
    "global_valid_seqs": Field("count", ""),
}

MODEL_OUTPUT_FIELDS: Final[dict[str, Field]] = {
    "logits": Field("logits", "B S V"),
    "next_token_logprobs": Field("logprobs", "B S-1"),
    "values": Field("values", "B S"),
    "rewards": Field("rewards", "B"),
    "embeddings": Field("embeddings", "B D"),
}
