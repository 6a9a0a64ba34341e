"""Distillation between different vocabularies on the same positions: probabilities are compared by rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from torch import Tensor

from loss_reference.contract import Field, Option
from loss_reference.distillation.divergence import DISTILLATION, TEMPERATURE
from loss_reference.distillation.merged import MERGE, MERGES, merged_sides, reading_chunks
from loss_reference.distillation.mixture import generalized_jsd
from loss_reference.distillation.teacher import teacher_logits
from loss_reference.distillation.vocabularies import Matching, sorted_l1
from loss_reference.interface import Batch, LossFunction, Outputs
from loss_reference.reduction import aggregate_tokens
from loss_reference.registry import register
from loss_reference.relevance import unless
from loss_reference.settings import ConfigError, Setting
from loss_reference.supervised.next_token import next_tokens, sampled, trained_logits
from loss_reference.supervised.nll import nll
from loss_reference.token_level import refine

__all__ = ["HybridULDLoss", "ULDLoss", "hybrid_uld", "uld"]

OTHER_VOCABULARY: Final = refine(
    DISTILLATION, level="sequence", fields={"teacher_logits": Field("logits", "B S U", trainable=False)}
)


def uld(p: Tensor, q: Tensor, lp: Tensor | None = None, crossentropy_weight: float = 0.0) -> Tensor:
    """Return sum_i |p_(i) - q_(i)| + c (-lp), one term per token.

    Args:
        p: probabilities [..., U] of the teacher.
        q: probabilities [..., V] of the student.
        lp: log-probabilities [...] of the targets under the student, in nats; without them the second part is left out.
        crossentropy_weight: c, at least 0.
    """
    by_rank = sorted_l1(p, q)
    return by_rank if lp is None else by_rank + crossentropy_weight * nll(lp)


def hybrid_uld(
    matched: tuple[Tensor, Tensor], rest: tuple[Tensor, Tensor], w_m: float, w_u: float, beta: float = 0.5
) -> Tensor:
    """Return w_m JSD_b(matched p, matched q) + w_u sum_i |p_(i) - q_(i)| over the rest, one term per token.

    Args:
        matched: log-probabilities ([..., M], [..., M]) of teacher and student for tokens both vocabularies have.
        rest: log-probabilities of all other tokens of the teacher and of the student.
        w_m, w_u: weights of the two parts, at least 0.
        beta: b in [0, 1], see ``generalized_jsd``.
    """
    (log_p, log_q), (log_p_u, log_q_u) = matched, rest
    by_rank = w_u * sorted_l1(log_p_u.exp(), log_q_u.exp())
    # A part of weight 0 is not taken: at the end points of b it may be infinite.
    return by_rank if w_m == 0 else w_m * generalized_jsd(log_p, log_q, beta) + by_rank


@register("uld")
class ULDLoss(LossFunction):
    """Universal logit distillation: v = sum_i |p_(i) - q_(i)| + c (-log q(y)), the mean of row means.

    p_(i) and q_(i) are the i-th highest probabilities of teacher and student, the smaller vocabulary padded with zeros: no
    token needs to have a counterpart. Reads ``logits`` [B, S, V], ``teacher_logits`` [B, S, U] of any U, aligned position
    by position, and ``token_mask`` [B, S]; ``input_ids`` [B, S] when c > 0; optional ``sample_mask`` [B],
    ``global_valid_seqs``. The first part is in [0, 2], and 0 for *any* permutation of the same probabilities: it cannot
    tell a student that is right from one that confuses the tokens. Only the student receives gradient.

    Config: ``crossentropy_weight`` c (0, at least 0), in nats per token; ``temperature`` (1, above 0) of p and q, not of
    the cross entropy.

    Raises:
        KeyError: no ``teacher_logits``, no ``input_ids`` where c > 0.
        ValueError: shapes that do not belong together, a token id outside the vocabulary.
        ConfigError: a setting out of range or unknown.

    Source: arXiv 2402.12030.
    """

    contract = refine(
        OTHER_VOCABULARY,
        direction={"crossentropy_weight": +1},
        options={"temperature": TEMPERATURE, "crossentropy_weight": Option(values=(0.0, 0.5, 1.0))},
    )
    crossentropy_weight = Setting(0.0, least=0.0)
    temperature = Setting(1.0, above=0.0)

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        if self.crossentropy_weight == 0:
            self.contract = refine(self.contract, upper_bound=2.0)

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        z_q, m = trained_logits(batch, model_outputs)
        z_p, c = teacher_logits(batch, m), self.crossentropy_weight
        if batch.get("input_ids") is None and c > 0:
            raise KeyError("batch needs 'input_ids' where crossentropy_weight is above 0")
        lp = sampled(z_q.log_softmax(dim=-1), next_tokens(batch, m, z_q.shape[-1])) if c > 0 else None
        p, q = ((z / self.temperature).softmax(dim=-1) for z in (z_p, z_q))
        return aggregate_tokens(uld(p, q, lp, c), m, batch, "seq_mean_token_mean")


@register("hybrid_uld")
class HybridULDLoss(LossFunction):
    """Hybrid ULD: v = w_m JSD_b(matched p, matched q) + w_u sum_i |p_(i) - q_(i)| over the rest, the mean of row means.

    A token of the student's vocabulary is matched when it is also one of the teacher's. JSD_b is the formula of
    ``GeneralizedJSDLoss`` on the probabilities as they are, not renormalised to the matched tokens; the others are
    compared by rank as in ``ULDLoss``. Reads ``logits`` [B, S, V], ``teacher_logits`` [B, S, U] and ``token_mask`` [B, S];
    optional ``sample_mask`` [B], ``global_valid_seqs``. At least 0 for b inside (0, 1); at the end points the matched part
    is a divergence of parts of distributions, which may be negative. 0 where teacher = student. Only the student receives
    gradient.

    With ``merge="observed"`` (TRL ``use_extended_uld``, ``uld_token_merge_strategy``) the terms are those of chunks, the pieces
    of text that both sides spell, and the mean of row means is over them: the probabilities of a chunk are those at its
    first position, times max(p(y), 1e-8) of the token y that follows each later position, so that a token of one side is
    compared with the several that stand for it on the other. Then ``token_mask`` is not read; the batch has ``input_ids``
    [B, S], ``teacher_logits`` [B, R, U] and ``teacher_input_ids`` [B, R] of any R, and ``student_chunk_ids`` [B, S],
    ``teacher_chunk_ids`` [B, R], ``chunk_valid`` [B, C] as ``CrossTokenizerLoss`` reads them.

    Config: ``merge`` (``"none"``; ``"observed"``); ``vocabulary_map`` (None: the first min(V, U) ids are the same; or a
    list with the teacher's id of each student id, -1 for none); ``beta`` b (0.5, in [0, 1]); ``matched_weight`` w_m and
    ``unmatched_weight`` w_u (both None, the share of the teacher's vocabulary that is matched, and the rest; or both a
    number of at least 0); ``temperature`` (1, above 0).

    Raises:
        KeyError: no ``teacher_logits``, or a field of the chunks where they are merged.
        ValueError: shapes that do not belong together, a token id outside its vocabulary, a map that does not fit the vocabularies.
        ConfigError: a setting out of range or unknown, one weight without the other, a map that is not one to one.

    Source: TRL ``GOLDTrainer``.
    """

    contract = refine(
        OTHER_VOCABULARY,
        options={
            "temperature": TEMPERATURE,
            "beta": Option(values=(0.0, 0.5, 1.0)),
            "merge": MERGE,
        },
    )
    merge = Setting("none", choices=MERGES)
    vocabulary_map: Setting[Sequence[int] | None] = Setting(None, check=False)
    beta = Setting(0.5, least=0.0, most=1.0, read_when=unless("matched_weight", 0))
    matched_weight = Setting[float | None](None, least=0.0, optional=True)
    unmatched_weight = Setting[float | None](None, least=0.0, optional=True)
    temperature = Setting(1.0, above=0.0)

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        self.matching = Matching.from_map(type(self).__name__, "vocabulary_map", self.vocabulary_map)
        if (self.matched_weight is None) != (self.unmatched_weight is None):
            raise ConfigError(
                f"{type(self).__name__}: matched_weight={self.matched_weight!r}, "
                f"unmatched_weight={self.unmatched_weight!r}; expected both or neither"
            )
        if self.matched_weight is not None:  # one without the other is refused: neither takes None where both are given
            weights = dict.fromkeys(("matched_weight", "unmatched_weight"), Option(values=(0.0, 0.5, 1.0)))
            self.contract = refine(self.contract, options={**self.contract.options, **weights})
        if self.beta in (0, 1):
            self.contract = refine(self.contract, lower_bound=float("-inf"))
        if self.merge != "none":
            self.contract = reading_chunks(self.contract)

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        log_p, log_q, m = self.both_sides(batch, model_outputs)
        if self.vocabulary_map is not None and len(self.vocabulary_map) != log_q.shape[-1]:
            raise ValueError(
                f"vocabulary_map has {len(self.vocabulary_map)} entries; logits have {log_q.shape[-1]} tokens"
            )
        q_matched, p_matched, q_rest, p_rest = self.matching.split(log_q, log_p)
        share = p_matched.shape[-1] / log_p.shape[-1]
        w_m = share if self.matched_weight is None else self.matched_weight
        w_u = 1 - share if self.unmatched_weight is None else self.unmatched_weight
        terms = hybrid_uld((p_matched, q_matched), (p_rest, q_rest), w_m, w_u, self.beta)
        return aggregate_tokens(terms, m, batch, "seq_mean_token_mean")

    def both_sides(self, batch: Batch, model_outputs: Outputs) -> tuple[Tensor, Tensor, Tensor]:
        """Return (log p, log q, m): [..., U] of the teacher, [..., V] of the student, and the weight of each term [...]."""
        if self.merge == "observed":
            return merged_sides(batch, model_outputs, self.temperature)
        z_q, m = trained_logits(batch, model_outputs)
        log_q, log_p = ((z / self.temperature).log_softmax(dim=-1) for z in (z_q, teacher_logits(batch, m)))
        return log_p, log_q, m
