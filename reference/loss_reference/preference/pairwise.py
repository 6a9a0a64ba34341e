"""What losses with one term per preference pair share: a score per sequence, and the mean over pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from torch import Tensor

from loss_reference.contract import Contract, Option
from loss_reference.interface import Batch, Outputs
from loss_reference.logprobs import token_constant, trained_logprobs
from loss_reference.pairs import mean_of_pairs, pair_weights, split_pairs
from loss_reference.preference.dpo import sequence_log_ratio
from loss_reference.preference.layout import PAIR_LAYOUT, PairedLoss
from loss_reference.reduction import keep_active, row_weights
from loss_reference.shapes import require_shape

__all__ = [
    "BETA",
    "MONOTONE",
    "PairLoss",
    "active_pairs",
    "pair_contract",
    "row_constant",
    "sequence_logprob",
    "token_log_ratio",
    "trained_lengths",
]

BETA: Final = Option(values=(0.1, 1.0))
MONOTONE: Final = {"chosen_scores": -1, "rejected_scores": +1}
USUAL: Final[dict[str, Any]] = {
    "family": "preference",
    "level": "pair",
    "normalizer": "global",
    "length_normalized": False,
    "lower_bound": 0.0,
}


def pair_contract(
    direction: Mapping[str, int] = MONOTONE, facts: Mapping[str, Any] | None = None, **options: Option
) -> Contract:
    """Return the contract of a preference loss that is a mean over pairs, at least 0, with sums over tokens.

    Args:
        direction: what the loss rises and falls with.
        facts: what differs from ``USUAL``.
        options: the settings by name; ``pair_layout`` is one of every loss of pairs.
    """
    return Contract(**{**USUAL, **(facts or {})}, direction=direction, options={**options, "pair_layout": PAIR_LAYOUT})


def trained_lengths(m: Tensor) -> Tensor:
    """Return n [B], the number of trained tokens of each row of weights m [B, S-1]."""
    return (m != 0).sum(dim=1)


def token_log_ratio(batch: Batch, model_outputs: Outputs) -> tuple[Tensor, Tensor]:
    """Return (lp - lp_ref, m), both [B, S-1]; the log-ratio is 0 where the weight m is 0."""
    lp, m = trained_logprobs(batch, model_outputs)
    return lp - token_constant(batch, "reference_policy_logprobs", m), m


def sequence_logprob(batch: Batch, model_outputs: Outputs, average: bool = False) -> tuple[Tensor, Tensor]:
    """Return (p, w), each [B]: p_b = sum_t m lp, or its mean over trained tokens, and the row weights. No reference."""
    lp, m = trained_logprobs(batch, model_outputs)
    p = lp.sum(dim=1)
    return (p / trained_lengths(m).clamp(min=1) if average else p), row_weights(batch, lp)


def row_constant(batch: Batch, name: str, like: Tensor) -> Tensor:
    """Return ``batch[name]`` [B] as a constant of the dtype of ``like`` [B, ...].

    Raises:
        KeyError: no such field.
        ValueError: it is not [B].
    """
    require_shape(name, batch[name], (like.shape[0],), "one entry per row")
    return batch[name].detach().to(like)


def active_pairs(scores: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return (chosen, rejected), each [B/2], of [B] ``scores``; 0 in a pair of weight 0."""
    chosen, rejected = split_pairs(scores)
    active = pair_weights(weights)
    return keep_active(chosen, active), keep_active(rejected, active)


class PairLoss(PairedLoss):
    """L = mean over pairs of ``terms(s_w, s_l)``, with one score s per sequence: h = sum_t m (lp - lp_ref) by default.

    Reads ``next_token_logprobs`` [B, S-1] (or ``logits`` [B, S, V] and ``input_ids``), ``token_mask`` [B, S],
    ``reference_policy_logprobs`` [B, S] unless ``scores`` needs no reference; optional ``sample_mask`` [B],
    ``global_valid_seqs``. Only the policy receives gradient.

    Config, of every loss of pairs: ``pair_layout`` (``"interleaved"``: rows 0, 2, 4, ... are chosen; ``"halves"``: the
    first half of the rows is, as in TRL, Liger and OpenRLHF).

    Raises:
        ValueError: an odd number of rows, shapes that do not belong together, a token id outside the vocabulary.
        ConfigError: a setting out of range or unknown.
    """

    def scores(self, batch: Batch, model_outputs: Outputs) -> tuple[Tensor, Tensor]:
        """Return (s, w), each [B]: the score of every sequence, and its weight."""
        return sequence_log_ratio(batch, model_outputs)

    def terms(self, s_w: Tensor, s_l: Tensor, /) -> Tensor:
        """Return [B/2] terms from the scores [B/2] of the chosen and of the rejected sequences."""
        raise NotImplementedError(f"{type(self).__name__} must define terms(self, s_w, s_l)")

    def paired_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        s, w = self.scores(batch, model_outputs)
        return mean_of_pairs(self.terms(*active_pairs(s, w)), w, batch)
