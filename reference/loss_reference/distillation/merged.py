"""Several tokens that spell one piece of text, merged into one: a distribution per chunk instead of one per position."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from loss_reference.contract import Contract, Field, Option
from loss_reference.distillation.chunks import Chunks
from loss_reference.interface import Batch, Outputs
from loss_reference.logprobs import require_inside_vocabulary
from loss_reference.reduction import keep_active
from loss_reference.shapes import require_shape
from loss_reference.supervised.next_token import sampled
from loss_reference.token_level import refine

__all__ = ["MERGE", "MERGES", "merged", "merged_sides", "reading_chunks"]

MERGES: Final = ("none", "observed")
# The other way wants other fields: checks that vary a setting have none to give it.
MERGE: Final = Option(values=("none",))
SMALLEST_LOGPROB: Final = math.log(1e-8)


def merged(log_p: Tensor, y: Tensor, side: Tensor, C: int) -> Tensor:
    """Return log p_f + sum_(j > f) max(log p_j(y_j), log 1e-8) of every chunk [B, C, V], f its first position, j the others.

    Args:
        log_p: log-probabilities [B, T, V] of the next token, in nats, finite where a chunk has a position.
        y: the token [B, T] that did follow.
        side: the chunk [B, T] of each position, C for none.
        C: number of chunks; one without a position has numbers that mean nothing.
    """
    member = side.unsqueeze(1) == torch.arange(C, device=side.device).unsqueeze(1)
    first = member.int().argmax(dim=-1)  # [B, C], the first of equals
    later = member & (first.unsqueeze(-1) != torch.arange(side.shape[1], device=side.device))
    conditional = keep_active(sampled(log_p, y), later.any(dim=1)).clamp(min=SMALLEST_LOGPROB)
    of_first = log_p.gather(1, first.unsqueeze(-1).expand(-1, -1, log_p.shape[-1]))
    return of_first + (later.to(log_p) @ conditional.unsqueeze(-1))


def merged_sides(batch: Batch, model_outputs: Outputs, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return (log p, log q, w): the ``merged`` teacher [B, C, U] and student [B, C, V], and the weights of the chunks [B, C].

    Reads the student's ``logits`` [B, S, V] and ``input_ids`` [B, S], ``teacher_logits`` [B, R, U] and
    ``teacher_input_ids`` [B, R], and the fields of ``Chunks``. The last position of a row predicts nothing that is known and
    belongs to no chunk.

    Raises:
        KeyError: a field that is missing.
        ValueError: shapes that do not belong together, a token id outside its vocabulary.
    """
    logits, teacher = model_outputs["logits"], batch["teacher_logits"]
    require_shape("logits", logits, ("B", "S", "V"), "V scores per position of the student")
    require_shape("teacher_logits", teacher, (logits.shape[0], "R", "U"), "U scores per position of the teacher")
    ids = {}
    for name, scores in (("student_chunk_ids", logits), ("teacher_chunk_ids", teacher)):
        require_shape(name, batch[name], tuple(scores.shape[:2]), "one chunk per position")
        ids[name] = batch[name][:, :-1]
    chunks = Chunks.of({**batch, **ids}, logits[:, :-1], teacher[:, :-1])
    log_q = _merged_side(batch, "input_ids", logits, chunks.student, chunks, temperature)
    log_p = _merged_side(batch, "teacher_input_ids", teacher.detach(), chunks.teacher, chunks, temperature)
    return log_p.to(log_q), log_q, chunks.weights


def reading_chunks(contract: Contract) -> Contract:
    """Return ``contract`` of a loss of two sequences of positions, in chunks, in the place of one."""
    fields = {
        "logits": Field("logits", "B S V", trainable=True),
        "teacher_logits": Field("logits", "B teacher U", trainable=False),
        "teacher_input_ids": Field("token_ids", "B teacher"),
        "student_chunk_ids": Field("labels", "B S"),
        "teacher_chunk_ids": Field("labels", "B teacher"),
        "chunk_valid": Field("mask", "B chunks"),
    }
    return refine(contract, fields={**contract.fields, **fields})


def _merged_side(batch: Batch, name: str, scores: Tensor, side: Tensor, chunks: Chunks, temperature: float) -> Tensor:
    require_shape(name, batch[name], tuple(scores.shape[:2]), "one token per position")
    counted = chunks.counted(side)
    y = keep_active(batch[name][:, 1:], counted).long()
    require_inside_vocabulary(name, y, scores.shape[-1])
    log_p = (keep_active(scores[:, :-1], counted) / temperature).log_softmax(dim=-1)
    return merged(log_p, y, side, chunks.weights.shape[1])
