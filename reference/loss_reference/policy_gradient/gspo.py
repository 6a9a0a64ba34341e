"""Sequence-level ratios: one geometric-mean ratio per answer, clipped as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from loss_reference.contract import Option
from loss_reference.interface import Batch, Outputs
from loss_reference.logprobs import next_token_logprobs, token_constant, trained_logprobs
from loss_reference.padding import PADDINGS, answer_positions, reading_padding
from loss_reference.policy_gradient.kl import k3
from loss_reference.policy_gradient.policy import POLICY_GRADIENT, PolicyLoss
from loss_reference.policy_gradient.ppo_clip import ppo_clip
from loss_reference.policy_gradient.ratio import mean_over_tokens, ratio_of, straight_through
from loss_reference.reduction import AGGREGATIONS, global_count, mean_of_terms, row_weights
from loss_reference.registry import register
from loss_reference.relevance import unless
from loss_reference.settings import Setting
from loss_reference.token_level import AGGREGATION_OPTIONS, TokenLevelLoss, refine

__all__ = ["GSPOLoss", "GSPOTokenLoss", "LUSPOLoss", "SequenceRatioLoss", "gspo", "gspo_token_log_ratio", "luspo"]


def gspo(
    log_s: Tensor, A: Tensor, clip_min: float = 3e-4, clip_max: float = 4e-4, log_ratio_max: float | None = None
) -> Tensor:
    """Return max(-A s, -A clip(s, 1 - clip_min, 1 + clip_max)), s = exp(log_s), one term per token [B, S-1].

    Args:
        log_s: sum_t m (lp - lp_old) / n_b [B, 1], in nats (``mean_over_tokens``), or ``gspo_token_log_ratio`` [B, S-1].
        A: advantages [B, S-1].
        clip_min, clip_max: how far the ratio may fall below and rise above 1, at least 0.
        log_ratio_max: log_s is at most this, and has no gradient beyond; above 0.
    """
    s = ratio_of(log_s if log_ratio_max is None else log_s.clamp(max=log_ratio_max))
    return ppo_clip(s, A, clip_min, clip_max)


def gspo_token_log_ratio(log_s: Tensor, lp: Tensor) -> Tensor:
    """Return log s_bt = sg(log s_b) + lp - sg(lp) [B, S-1] from log s_b [B, 1] and lp [B, S-1], sg(.) the stop-gradient."""
    return log_s.detach() + straight_through(lp)


def luspo(policy: Tensor, m: Tensor, k: Tensor | None = None, c: Tensor | None = None, beta: float = 0.0) -> Tensor:
    """Return sum_t m policy + beta sum_t c k, one term per sequence [B]: n_b times what ``gspo`` gives it.

    Args:
        policy: the term of ``gspo`` [B, S-1], the same at every token of a row where its advantage is.
        m: weights of the tokens [B, S-1].
        k: k3(lp - lp_ref) [B, S-1], in nats; without it the second sum is left out.
        c: its weights [B, S-1]; m unless told otherwise.
        beta: strength of the pull towards the reference, at least 0.
    """
    terms = (m * policy).sum(dim=1)
    return terms if k is None else terms + beta * ((m if c is None else c) * k).sum(dim=1)


class SequenceRatioLoss(PolicyLoss):
    """The clipped terms of one ratio per answer; a subclass says how they are reduced.

    Config: ``ratio_clip_min`` (3e-4, at least 0), ``ratio_clip_max`` (4e-4, at least 0), ``log_ratio_max`` (None; above 0:
    log s_b is at most this).
    """

    contract = refine(
        POLICY_GRADIENT,
        level="sequence",
        direction={"advantages": -1},
        options={
            "ratio_clip_min": Option(values=(0.0, 3e-4, 0.2)),
            "ratio_clip_max": Option(values=(0.0, 4e-4, 0.2)),
            "log_ratio_max": Option(values=(None, 0.05, 10.0)),
        },
    )
    ratio_clip_min = Setting(3e-4, least=0.0)
    ratio_clip_max = Setting(4e-4, least=0.0)
    log_ratio_max = Setting[float | None](None, above=0.0, optional=True)

    def policy_terms(self, lp: Tensor, m: Tensor, batch: Batch) -> Tensor:
        delta = lp - token_constant(batch, "prev_logprobs", m)
        log_s, A = self.log_ratio(mean_over_tokens(delta, m), lp), token_constant(batch, "advantages", m)
        return gspo(log_s, A, self.ratio_clip_min, self.ratio_clip_max, self.log_ratio_max)

    def log_ratio(self, log_s: Tensor, lp: Tensor) -> Tensor:
        """Return the log-ratio of every token [B, S-1], or of every row [B, 1], from log s_b [B, 1]."""
        return log_s


@register("gspo")
class GSPOLoss(TokenLevelLoss, SequenceRatioLoss):
    """GSPO: L = (1/S_g) sum_b mean_t max(-A s, -A clip(s, 1 - e_l, 1 + e_h)), s_b = exp(sum_t m (lp - lp_old) / n_b).

    Reads ``next_token_logprobs`` [B, S-1] (or ``logits`` [B, S, V] and ``input_ids`` [B, S]), ``prev_logprobs``,
    ``advantages`` and ``token_mask``, all [B, S]; optional ``sample_mask`` [B], ``global_valid_seqs``. ``advantages`` are
    usually one number per sequence. Any real result, -mean A on policy. Only the policy receives gradient:
    dl_b/dlp_t = -A s / n_b at every token of the row, with mean A where A differs between tokens, 0 where clipped. The
    mean log-ratio saturates at 70 nats (``MAX_LOG_RATIO``). Rows of one token give ``ppo_clip``.

    Config: ``ratio_clip_min`` e_l (3e-4, at least 0), ``ratio_clip_max`` e_h (4e-4, at least 0); ``log_ratio_max`` (None;
    above 0: log s_b is at most this and has no gradient beyond; verl 10); ``aggregation`` (``"seq_mean_token_mean"``:
    the only one of NeMo RL and verl, and TRL with ``loss_type="grpo"``; with ``"token_mean"``, TRL's ``"dapo"``, a
    sequence weighs its length); ``max_length`` (above 0, needed by ``"fixed"``).

    OpenRLHF, with its importance correction on, compares with the generating policy: give it as ``prev_logprobs``. NeMo RL
    then multiplies by the ratio of the two over the whole sequence: ``seq_truncate`` with ``ratio_level="sequence"``.

    Raises:
        ValueError: shapes that do not belong together, a token id outside the vocabulary.
        ConfigError: a setting out of range or unknown, ``"fixed"`` without ``max_length``.

    Source: arXiv 2507.18071, eq. 5 to 7.
    """

    contract = refine(SequenceRatioLoss.contract, options={**SequenceRatioLoss.contract.options, **AGGREGATION_OPTIONS})
    aggregation = Setting("seq_mean_token_mean", choices=AGGREGATIONS)


@register("gspo_token")
class GSPOTokenLoss(GSPOLoss):
    """GSPO-token: GSPO with s_bt = sg(s_b) exp(lp - sg lp), so that a token moves by its own advantage.

    Inputs, shapes, range, config and errors as ``GSPOLoss``, and the same value. dl_b/dlp_t = -A_t s / n_b, which is that
    of ``GSPOLoss`` where A is constant within the sequence; 0 where clipped. It is not the gradient of the value.

    Terms: ``gspo`` of ``gspo_token_log_ratio``.

    Source: arXiv 2507.18071, eq. 13 and 14; verl ``gspo``, with ``log_ratio_max=10``.
    """

    contract = refine(GSPOLoss.contract, surrogate_gradient=True)
    strict_config = True

    def log_ratio(self, log_s: Tensor, lp: Tensor) -> Tensor:
        return gspo_token_log_ratio(log_s, lp)


@register("luspo")
class LUSPOLoss(SequenceRatioLoss):
    """LUSPO: L = (1/S_g) sum_b n_b l_b, l_b the term of ``GSPOLoss`` and n_b the length: no bias towards short answers.

    Inputs, shapes, range and errors as ``GSPOLoss``, and ``reference_policy_logprobs`` [B, S] where beta is above 0.
    dl_b/dlp_t = -A s at every token, 0 where clipped. Where every row has one token it is ``gspo``. With beta above 0,
    (1/S_g) sum_b sum_t m beta k3(lp - lp_ref) is added, ``kl_k3`` of that aggregation.

    Config: ``ratio_clip_min`` (3e-4, at least 0), ``ratio_clip_max`` (4e-4, at least 0), ``log_ratio_max`` (None; above 0);
    ``reference_policy_kl_penalty`` beta (0, at least 0); ``padding``, read where beta is above 0 (``"ignored"``, TRL;
    ``"counted"``, Liger 0.8 and older TRL: n_b times the mean of k3 at every position from the answer's first trained token
    to the end of the row, whatever ``token_mask`` says of it, in the place of the sum over trained tokens). What is counted
    is read: it must hold numbers and token ids, and more padding changes the result.

    Source: arXiv 2602.05261; TRL ``loss_type="luspo"``.
    """

    contract = refine(
        SequenceRatioLoss.contract,
        length_normalized=False,
        direction={**SequenceRatioLoss.contract.direction, "reference_policy_kl_penalty": +1},
        options={
            **SequenceRatioLoss.contract.options,
            "reference_policy_kl_penalty": Option(values=(0.0, 0.04, 1.0)),
            "padding": Option(values=PADDINGS),
        },
    )
    reference_policy_kl_penalty = Setting(0.0, least=0.0)
    padding = Setting("ignored", choices=PADDINGS, read_when=unless("reference_policy_kl_penalty", 0))

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        if self.padding == "counted":
            self.contract = reading_padding(self.contract, "Liger")

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        lp, m = trained_logprobs(batch, model_outputs)
        terms, beta = self.policy_terms(lp, m, batch), self.reference_policy_kl_penalty
        if beta == 0:
            return self.mean_of_answers(luspo(terms, m), batch)
        read = c = m  # where lp is read, and the weights of k3
        if self.padding == "counted":
            read = answer_positions(m).to(m)
            c = read * m.sum(dim=1, keepdim=True) / read.sum(dim=1, keepdim=True).clamp(min=1.0)
            lp = next_token_logprobs(batch, model_outputs, read)
        k = k3(lp - token_constant(batch, "reference_policy_logprobs", read))
        return self.mean_of_answers(luspo(terms, m, k, c, beta), batch)

    def mean_of_answers(self, terms: Tensor, batch: Batch) -> Tensor:
        """Return the sum of per-sequence terms [B], which have their weights, over S_g or the number of rows that count."""
        count = global_count(batch, "global_valid_seqs")
        rows = row_weights(batch, terms)
        return mean_of_terms(terms, (rows != 0).to(terms), rows.sum() if count is None else count)
