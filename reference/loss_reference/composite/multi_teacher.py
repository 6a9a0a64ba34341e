"""Distillation from several teachers at once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from loss_reference.contract import Contract, Field, Option
from loss_reference.distillation.divergence import TEMPERATURE
from loss_reference.distillation.kl import KL_TYPES, kl_of_type
from loss_reference.distillation.soft_ce import soft_ce
from loss_reference.interface import Batch, LossFunction, Outputs
from loss_reference.reduction import global_count, keep_active, mean_of_terms
from loss_reference.registry import register
from loss_reference.relevance import unless, where
from loss_reference.settings import ConfigError, Setting
from loss_reference.shapes import require_shape
from loss_reference.supervised.next_token import next_tokens, trained_logits
from loss_reference.token_level import refine

__all__ = ["MultiTeacherLoss", "multi_teacher", "vocabulary_factors"]

AGGREGATIONS: Final = ("sum", "averaged_logits", "select_teacher")
WEIGHTINGS: Final = ("static", "cross_entropy", "entropy", "max_probability")


def multi_teacher(
    teachers: Iterable[tuple[float | Tensor, Tensor]], log_q: Tensor, kl_type: str = "forward", w: float = 0.5
) -> Tensor:
    """Return sum_i w_i D(p_i, q), one term per token; 0 without teachers.

    Args:
        teachers: (w_i, log p_i) of each teacher: its weight and its log-probabilities [..., V], in nats.
        log_q: log-probabilities [..., V] of the student.
        kl_type: D is ``"forward"`` KL(p || q), ``"reverse"`` KL(q || p) or ``"mixed"``.
        w: the weight, in [0, 1], of the forward one in ``"mixed"``.
    """
    terms = log_q.new_zeros(log_q.shape[:-1])
    for w_i, log_p in teachers:
        terms = terms + w_i * kl_of_type(kl_type, log_p, log_q, w)
    return terms


def vocabulary_factors(sizes: Sequence[int]) -> list[float]:
    """Return log V_i / min_j log V_j of vocabularies of ``sizes`` V, each at least 2: 1 for the smallest."""
    return [math.log(V) / math.log(min(sizes)) for V in sizes]


@register("multi_teacher", "multi_teacher_aggregation")
class MultiTeacherLoss(LossFunction):
    """Several teachers: the mean over tokens of sum_i w_i D(p_i, q), of D(p_mean, q), or of D(p_best, q).

    D is the divergence ``kl_type`` of teacher p_i and student q. ``"sum"`` adds the weighted divergences;
    ``"averaged_logits"`` takes one teacher whose logits are the weighted mean of all; ``"select_teacher"`` takes the one
    with the lowest cross entropy on the trained tokens of this batch (of several the first). With one teacher of weight 1
    each is that teacher's divergence.

    Reads ``logits`` [B, S, V] of the student, ``teachers_logits`` [B, S, M, V] of M teachers and ``token_mask`` [B, S];
    ``input_ids`` [B, S] where a cross entropy is taken; optional ``sample_mask`` [B], ``global_valid_toks``. In nats per
    token, at least 0 for weights of at least 0, 0 where the student agrees with every teacher that counts. Only the student
    receives gradient. Whatever compares teachers on this batch couples its rows, and microbatches do not add up.

    Config: ``aggregation`` (``"sum"``); ``weights`` w (None: all 1; a list of M numbers of at least 0, not all 0; the mean of
    logits divides by their sum, the selection does not read them); ``weighting`` of the sum (``"static"``: w; otherwise the
    softmax over teachers of a times a score, the mean over trained tokens: ``"cross_entropy"`` minus the cross entropy,
    ``"entropy"`` minus the entropy, ``"max_probability"`` the highest probability) and ``alpha`` a (1, above 0);
    ``vocabulary_sizes`` V (None; a list of M whole numbers of at least 2: in the sum teacher i weighs log V_i / min_j log V_j
    times as much, NeMo RL ``normalize_by_vocab``; what a teacher scores beyond its own tokens is the caller's to make -inf);
    ``kl_type`` (``"forward"``, ``"reverse"`` or ``"mixed"`` with ``mixed_kl_weight`` 0.5 of the forward one);
    ``temperature`` (1, above 0), without factor T^2.

    Raises:
        KeyError: no ``teachers_logits``, no ``input_ids`` where it is needed.
        ValueError: shapes that do not belong together, another number of weights or sizes than teachers, a token id outside the
            vocabulary.
        ConfigError: a setting out of range or unknown, weights or sizes that cannot be meant.

    Source: NeMo RL ``CrossTokenizerDistillationLossFn`` with several teachers of the student's vocabulary.
    """

    contract = Contract(
        family="composite",
        level="token",
        normalizer="global",
        length_normalized=True,
        lower_bound=0.0,
        fields={"teachers_logits": Field("logits", "B S M V", trainable=False, speaks_of="next")},
        options={
            "temperature": TEMPERATURE,
            # Without the words for which input_ids are needed.
            "aggregation": Option(values=("sum", "averaged_logits")),
            "weighting": Option(values=("static", "entropy", "max_probability")),
            "alpha": Option(values=(1.0, 4.0)),
            "kl_type": Option(values=KL_TYPES),
            "mixed_kl_weight": Option(values=(0.0, 0.5, 1.0)),
        },
    )
    aggregation = Setting("sum", choices=AGGREGATIONS)
    weights: Setting[Sequence[float] | None] = Setting(
        None, check=False, read_when=unless("aggregation", "select_teacher")
    )
    weighting = Setting("static", choices=WEIGHTINGS, read_when=(where("aggregation", "sum"), where("weights", None)))
    alpha = Setting(1.0, above=0.0, read_when=unless("weighting", "static"))
    vocabulary_sizes: Setting[Sequence[int] | None] = Setting(None, check=False, read_when=where("aggregation", "sum"))
    kl_type = Setting("forward", choices=KL_TYPES)
    mixed_kl_weight = Setting(0.5, least=0.0, most=1.0, read_when=where("kl_type", "mixed"))
    temperature = Setting(1.0, above=0.0)

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        w, owner = self.weights, type(self).__name__
        if w is not None and not (isinstance(w, list | tuple) and all(map(_is_weight, w)) and any(w)):
            raise ConfigError(f"{owner}: weights={w!r}; expected a list of numbers of at least 0, not all 0")
        V = self.vocabulary_sizes
        if V is not None and not (isinstance(V, list | tuple) and V and all(type(x) is int and x >= 2 for x in V)):
            raise ConfigError(f"{owner}: vocabulary_sizes={V!r}; expected a list of whole numbers of at least 2")
        if self.aggregation == "select_teacher" or self.weighting != "static":
            self.contract = refine(self.contract, coupled=True)
        if self.aggregation != "sum" or w is not None:  # then there is no softmax over scores for alpha to sharpen
            kept = {key: option for key, option in self.contract.options.items() if key not in ("weighting", "alpha")}
            self.contract = refine(self.contract, options=kept)

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        z_q, m = trained_logits(batch, model_outputs)
        T, teachers = self.temperature, batch["teachers_logits"]
        expected = (*batch["token_mask"].shape, "M", z_q.shape[-1])
        require_shape("teachers_logits", teachers, expected, "V scores per token and teacher")
        z_p = keep_active(teachers.detach()[:, :-1], m).to(z_q)
        log_p = ((w, (z / T).log_softmax(dim=-1)) for w, z in self.weighted_teachers(z_p, m, batch))
        terms = multi_teacher(log_p, (z_q / T).log_softmax(dim=-1), self.kl_type, self.mixed_kl_weight)
        return mean_of_terms(terms, m, global_count(batch, "global_valid_toks"))

    def weighted_teachers(self, z_p: Tensor, m: Tensor, batch: Batch) -> list[tuple[float | Tensor, Tensor]]:
        """Return (weight, scores [B, S-1, V]) of the teachers to compare with, those of weight 0 left out.

        Args:
            z_p: scores [B, S-1, M, V] of all teachers.
            m: weights [B, S-1] of the tokens.
            batch: the batch, for ``input_ids``.
        """
        M = z_p.shape[-2]
        weights = [1.0] * M if self.weights is None else list(self.weights)
        if len(weights) != M:
            raise ValueError(f"weights has {len(weights)} entries; teachers_logits has {M} teachers")
        sizes = self.vocabulary_sizes
        if sizes is not None and len(sizes) != M:
            raise ValueError(f"vocabulary_sizes has {len(sizes)} entries; teachers_logits has {M} teachers")
        if self.aggregation == "select_teacher":
            best = self.scores("cross_entropy", z_p, m, batch).argmax(dim=0, keepdim=True)
            return [(1.0, z_p.index_select(-2, best).squeeze(-2))]
        factors = [1.0] * M if sizes is None else vocabulary_factors(sizes)
        counted = [(w * f, z) for w, f, z in zip(weights, factors, z_p.unbind(dim=-2), strict=True) if w > 0]
        if self.aggregation == "averaged_logits":
            total = sum(weights)
            return [(1.0, torch.stack([w / total * z for w, z in counted]).sum(dim=0))]
        if self.weighting == "static":
            return [*counted]
        shares = (self.alpha * self.scores(self.weighting, z_p, m, batch)).softmax(dim=0)
        return [(w * f, z) for w, f, z in zip(shares.unbind(), factors, z_p.unbind(dim=-2), strict=True)]

    def scores(self, kind: str, z_p: Tensor, m: Tensor, batch: Batch) -> Tensor:
        """Return how far each teacher is trusted [M]: a mean over the tokens of this batch, at temperature 1."""
        log_p = z_p.log_softmax(dim=-1)
        if kind == "cross_entropy":
            y = next_tokens(batch, m, z_p.shape[-1])[..., None, None].expand(*z_p.shape[:-1], 1)
            score = log_p.gather(-1, y).squeeze(-1)
        elif kind == "entropy":
            score = -soft_ce(log_p, log_p)
        else:
            score = log_p.amax(dim=-1).exp()
        return torch.stack([mean_of_terms(x, m, None) for x in score.unbind(dim=-1)])


def _is_weight(x: object) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) and x >= 0
