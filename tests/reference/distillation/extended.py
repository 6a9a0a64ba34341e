"""Random cases with the fields that distillation losses read besides the vocabulary."""

from __future__ import annotations

from typing import Any

import torch

from tests.reference.cases import Tensors, case

__all__ = ["chunked_case", "extended_case"]


def extended_case(
    seed: int, *, source: str = "logits", other_vocabulary: int = 0, **kwargs: Any
) -> tuple[Tensors, Tensors]:
    """A case with the teacher's and the rollout's log-probabilities; its teacher has another vocabulary if one is given."""
    batch, everything = case(seed, source=source, **kwargs)
    g = torch.Generator().manual_seed(1000 + seed)
    shape = batch["token_mask"].shape
    for name in ("teacher_logprobs", "generation_logprobs"):
        batch[name] = -torch.randn(shape, generator=g, dtype=torch.float64).abs() - 0.1
    if other_vocabulary:
        batch["teacher_logits"] = torch.randn(*shape, other_vocabulary, generator=g, dtype=torch.float64)
    return batch, {source: everything[source]}


def chunked_case(
    seed: int, *, V: int = 5, U: int = 6, S: int = 6, R: int = 5, C: int = 3, sample_mask: str | None = "zeros"
) -> tuple[Tensors, Tensors]:
    """Two tokenizations in chunks: ids from -1 to C, chunk 0 invalid in row 1; content that counts nowhere is NaN."""
    g = torch.Generator().manual_seed(seed)
    B = 3
    batch = {
        "teacher_logits": torch.randn(B, R, U, generator=g, dtype=torch.float64),
        "student_chunk_ids": torch.randint(-1, C + 1, (B, S), generator=g),
        "teacher_chunk_ids": torch.randint(-1, C + 1, (B, R), generator=g),
        "chunk_valid": torch.ones(B, C, dtype=torch.float64),
    }
    batch["chunk_valid"][1, 0] = 0.0
    batch["student_chunk_ids"][0, :2], batch["teacher_chunk_ids"][0, 0] = 1, 1  # 2 tokens against 1 at least
    if sample_mask is not None:
        batch["sample_mask"] = torch.tensor([0.7, 1.6, 0.0] if sample_mask == "floats" else [1.0, 1.0, 0.0]).double()
    logits = torch.randn(B, S, V, generator=g, dtype=torch.float64)
    nowhere = (batch["student_chunk_ids"] < 0) | (batch["student_chunk_ids"] >= C)
    return batch, {"logits": logits.masked_fill(nowhere.unsqueeze(-1), torch.nan)}
