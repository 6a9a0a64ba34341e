"""Distillation between tokenizers: pieces of text both models spell in their own tokens are compared as wholes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from loss_reference.contract import Contract, Field, Option
from loss_reference.distillation.chunks import Chunks, chunk_mean
from loss_reference.distillation.divergence import TEMPERATURE
from loss_reference.distillation.kl import forward_kl
from loss_reference.distillation.vocabularies import Matching
from loss_reference.interface import Batch, LossFunction, Outputs
from loss_reference.reduction import global_count, keep_active, mean_of_terms
from loss_reference.registry import register
from loss_reference.settings import ConfigError, Setting
from loss_reference.shapes import require_shape
from loss_reference.token_level import refine

__all__ = ["XTokenGoldLoss", "XTokenPKLLoss", "exact_matches", "xtoken_gold", "xtoken_pkl"]

SMALLEST_PROBABILITY: Final = 1e-10

CROSS_TOKENIZER: Final = Contract(
    family="distillation",
    level="sample",
    normalizer="global",
    lower_bound=float("-inf"),
    options={"temperature": TEMPERATURE},
    fields={
        "logits": Field("logits", "B student V", trainable=True),
        "teacher_logits": Field("logits", "B teacher U", trainable=False),
        "student_chunk_ids": Field("labels", "B student"),
        "teacher_chunk_ids": Field("labels", "B teacher"),
        "chunk_valid": Field("mask", "B chunks"),
        "global_valid_chunks": Field("count", ""),
    },
)


def exact_matches(projection: Tensor) -> list[tuple[int, int]]:
    """Return the pairs (student id, teacher id) of ``projection`` [V, U] that are the same token.

    Those are the rows with a single entry above 0, which is 1; of several rows with one teacher id the first counts.
    """
    pairs: dict[int, int] = {}
    for student, row in enumerate(projection):
        targets = row.nonzero().flatten().tolist()
        if len(targets) == 1 and float(row[targets[0]]) == 1.0:
            pairs.setdefault(targets[0], student)
    return [(student, teacher) for teacher, student in pairs.items()]


def xtoken_pkl(t: Tensor, s: Tensor) -> Tensor:
    """Return sum_u exp(t_u) (t_u - log s_u), one term per chunk, s divided by its sum and taken as 1e-10 at least.

    Args:
        t: the teacher's mean log-probabilities [B, C, K], in nats.
        s: the student's mean probabilities [B, C, K] of the same tokens.
    """
    s = s / s.sum(dim=-1, keepdim=True).clamp(min=SMALLEST_PROBABILITY)
    return forward_kl(t, s.clamp(min=SMALLEST_PROBABILITY).log())


def xtoken_gold(common: tuple[Tensor, Tensor], rest: tuple[Tensor, Tensor], k: int, pad_rest: bool = False) -> Tensor:
    """Return sum over the common of e^t (t - s) + sum_(i <= K) |e^(t_(i)) - e^(s_(i))| of the others, one term per chunk.

    Args:
        common: mean log-probabilities (t, s), each [B, C, M], of teacher and student for tokens both vocabularies have.
        rest: those of all other tokens of the teacher and of the student; (i) is the i-th highest.
        k: K, at most; fewer where the shorter side has fewer, or the longer one with ``pad_rest``.
        pad_rest: whether zeros stand for what the shorter side lacks.
    """
    shorter, longer = sorted(x.shape[-1] for x in rest)
    K = min(longer if pad_rest else shorter, k)
    t, s = (F.pad(x.exp(), (0, max(K - x.shape[-1], 0))).topk(K, dim=-1).values for x in rest)
    return forward_kl(*common) + (t - s).abs().sum(dim=-1)


class CrossTokenizerLoss(LossFunction):
    """T^2 times the mean over chunks of ``chunk_terms``; a chunk is a piece of text that both sides spell.

    Reads the student's ``logits`` [B, S, V], ``teacher_logits`` [B, R, U], ``student_chunk_ids`` [B, S] and
    ``teacher_chunk_ids`` [B, R], the chunk of each position (an id outside [0, C) is no chunk), and ``chunk_valid`` [B, C];
    optional ``sample_mask`` [B], ``global_valid_chunks``. A chunk weighs ``chunk_valid`` times ``sample_mask``, or 0 when
    one side has no position in it; the divisor is ``global_valid_chunks``, or the local sum of these weights. Positions are
    taken as they are: whoever makes the ids gives the position that *predicts* a token the chunk of that token. Only the
    student receives gradient.

    Config: ``projection`` (None: the ids of both vocabularies mean the same; or a tensor [V, U], row v the share of
    student token v that each teacher token takes over); ``temperature`` T (1, above 0).

    Raises:
        KeyError: a field that is missing.
        ValueError: shapes that do not belong together.
        ConfigError: a setting out of range or unknown, a projection that is no matrix of finite numbers of at least 0.
    """

    contract: Contract = CROSS_TOKENIZER
    projection: Setting[Tensor | None] = Setting(None, check=False)
    temperature = Setting(1.0, above=0.0)
    k = Setting(64, least=1)
    matrix: Tensor | None

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        M = self.projection
        if M is not None and not _is_projection(M):
            shown = f"a tensor {tuple(M.shape)}" if isinstance(M, Tensor) else repr(M)
            raise ConfigError(
                f"{type(self).__name__}: projection={shown}; expected a [V, U] tensor of finite numbers of at least 0"
            )
        self.register_buffer("matrix", M)

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        logits, teacher = model_outputs["logits"], batch["teacher_logits"]
        require_shape("logits", logits, ("B", "S", "V"), "V scores per position of the student")
        require_shape("teacher_logits", teacher, (logits.shape[0], "R", "U"), "U scores per position of the teacher")
        if self.matrix is not None:
            require_shape("projection", self.matrix, (logits.shape[2], teacher.shape[2]), "student by teacher tokens")
        chunks = Chunks.of(batch, logits, teacher)
        z_q = keep_active(logits, chunks.counted(chunks.student)) / self.temperature
        z_p = keep_active(teacher.detach(), chunks.counted(chunks.teacher)).to(z_q) / self.temperature
        terms = self.temperature**2 * self.chunk_terms(z_p, z_q, chunks)
        return mean_of_terms(terms, chunks.weights, global_count(batch, "global_valid_chunks"))

    def chunk_terms(self, z_p: Tensor, z_q: Tensor, chunks: Chunks, /) -> Tensor:
        """Return one term per chunk [B, C] from the scores, at the temperature, of teacher and student."""
        raise NotImplementedError(f"{type(self).__name__} must define chunk_terms(self, z_p, z_q, chunks)")


@register("xtoken_pkl")
class XTokenPKLLoss(CrossTokenizerLoss):
    """Cross-tokenizer KL by projection: v = sum_u exp(t_u) (t_u - log s_u) per chunk, times T^2.

    s is the mean over the chunk's positions of the student's probabilities, projected to K of the teacher's tokens and
    then renormalised; t is the mean over its positions of the teacher's log-probabilities, a softmax over these K, and not
    renormalised. The K tokens are the same for the whole batch: those with the teacher's highest scores at any position
    that counts. In nats, for chunks of one token at least 0 and 0 where both agree; for longer ones t is the logarithm
    of less than a distribution, and v may be negative. No s is taken below 1e-10: a teacher token that no student token is
    projected to would make the loss infinite.

    Inputs and errors as in ``CrossTokenizerLoss``.

    Config: that of ``CrossTokenizerLoss``, and ``k`` K (64, at least 1). With K below U the loss of a row depends on the
    whole batch, those of microbatches do not add up, and a constant added to the scores of one position of the teacher may
    change which tokens are looked at. NeMo RL chooses them at padded positions too.

    Source: NeMo RL ``CrossTokenizerDistillationLossFn`` with ``gold_loss=False``.
    """

    contract = refine(
        CROSS_TOKENIZER, coupled=True, options={"temperature": TEMPERATURE, "k": Option(values=(1, 2, 64))}
    )
    strict_config = True

    def chunk_terms(self, z_p: Tensor, z_q: Tensor, chunks: Chunks, /) -> Tensor:
        columns = self.highest_columns(z_p, chunks.counted(chunks.teacher))
        t = chunk_mean(z_p[..., columns].log_softmax(dim=-1), chunks.teacher, chunks.weights)
        s = chunk_mean(self.project(z_q.softmax(dim=-1), z_p.shape[-1], columns), chunks.student, chunks.weights)
        return xtoken_pkl(t, s)

    def highest_columns(self, z_p: Tensor, counted: Tensor) -> Tensor:
        """Return the ids [K] of the teacher's tokens with the highest scores ``z_p`` at any counted position [B, R]."""
        highest = z_p.masked_fill(~counted.unsqueeze(-1), -torch.inf).amax(dim=(0, 1))
        return highest.topk(min(self.k, highest.shape[0])).indices

    def project(self, q: Tensor, vocabulary: int, columns: Tensor) -> Tensor:
        """Return the share [..., K] of the student's probabilities ``q`` [..., V] that these teacher tokens take over."""
        if self.matrix is None:
            return F.pad(q, (0, vocabulary - q.shape[-1]))[..., columns]
        return q @ self.matrix.to(q)[:, columns]


@register("xtoken_gold")
class XTokenGoldLoss(CrossTokenizerLoss):
    """Cross-tokenizer distillation by common tokens: v = KL of the common ones + sorted L1 of the others, times T^2.

    s and t are the means over the chunk's positions of the student's and the teacher's log-probabilities, each over its
    whole vocabulary. For the tokens both vocabularies have, v sums exp(t) (t - s); of the others, exp(t) and exp(s) are
    sorted descending and |exp(t_(i)) - exp(s_(i))| is summed over the first K, or as many as both have. The common tokens
    are parts of distributions, so v may be negative; 0 where both agree. Infinite where s = -inf and t is not.

    Inputs and errors as in ``CrossTokenizerLoss``.

    Config: that of ``CrossTokenizerLoss``, where a token of ``projection`` is common when its row has a single entry
    above 0, which is 1 (of several with the same teacher token the first; without ``projection`` the first min(V, U) ids
    are common); ``k`` K (8192, at least 1); ``pad_rest`` (False, as NeMo RL; True: where one side has fewer tokens that are
    not common, zeros stand for the missing ones, as in ``ULDLoss``, so that their whole probability counts).

    Source: NeMo RL ``CrossTokenizerDistillationLossFn`` with ``gold_loss=True``.
    """

    contract = refine(
        CROSS_TOKENIZER,
        options={
            "temperature": TEMPERATURE,
            "k": Option(values=(1, 2, 8192)),
            "pad_rest": Option(values=(False, True)),
        },
    )
    k = Setting(8192, least=1)
    pad_rest = Setting(False)

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        self.matching = Matching(None if self.projection is None else exact_matches(self.projection))

    def chunk_terms(self, z_p: Tensor, z_q: Tensor, chunks: Chunks, /) -> Tensor:
        s = chunk_mean(z_q.log_softmax(dim=-1), chunks.student, chunks.weights)
        t = chunk_mean(z_p.log_softmax(dim=-1), chunks.teacher, chunks.weights)
        s_common, t_common, s_rest, t_rest = self.matching.split(s, t)
        return xtoken_gold((t_common, s_common), (t_rest, s_rest), self.k, self.pad_rest)


def _is_projection(M: object) -> bool:
    return (
        isinstance(M, Tensor)
        and M.dim() == 2
        and M.is_floating_point()
        and bool(torch.isfinite(M).all())
        and bool((M >= 0).all())
    )
