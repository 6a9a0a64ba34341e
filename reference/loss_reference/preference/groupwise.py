"""What losses with one term per group of answers to one prompt share: scores and rewards of K neighbouring rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from loss_reference.contract import Contract, Option
from loss_reference.groups import group_weights, mean_of_groups, split_groups
from loss_reference.interface import Batch, LossFunction, Outputs
from loss_reference.preference.dpo import sequence_log_ratio
from loss_reference.preference.pairwise import row_constant
from loss_reference.reduction import keep_active
from loss_reference.settings import Setting
from loss_reference.token_level import refine

__all__ = ["GroupLoss", "active_groups", "group_contract"]


def group_contract(
    direction: Mapping[str, int] | None = None,
    facts: Mapping[str, Any] | None = None,
    **options: Option,
) -> Contract:
    """Return the contract of a preference loss that is a mean over groups of rows, at least 0, with sums over tokens.

    Args:
        direction: what the loss rises and falls with.
        facts: what differs from that, ``group_size`` 2 included.
        options: the settings by name.
    """
    usual: dict[str, Any] = {
        "family": "preference",
        "level": "sample",
        "group_size": 2,
        "normalizer": "global",
        "length_normalized": False,
        "lower_bound": 0.0,
    }
    return Contract(**{**usual, **(facts or {})}, direction=direction or {}, options=options)


def active_groups(rows: Tensor, weights: Tensor, size: int) -> Tensor:
    """Return [B/K, K, ...] of ``rows`` [B, ...], K = ``size``; 0 in a group one of whose rows has weight 0."""
    return keep_active(split_groups(rows, size), group_weights(weights, size))


class GroupLoss(LossFunction):
    """L = mean over groups of ``terms(h, rewards)``: h = sum_t m (lp - lp_ref) and rewards of K answers to one prompt.

    Reads ``next_token_logprobs`` [B, S-1] (or ``logits`` [B, S, V] and ``input_ids``), ``reference_policy_logprobs``
    [B, S], ``token_mask`` [B, S], ``rewards`` [B], one constant per row; optional ``sample_mask`` [B],
    ``global_valid_seqs``. Rows 0 .. K-1 are the first group, in any order; a group weighs the smallest of its rows' weights.
    Only the policy receives gradient.

    Config, of every loss of groups: ``group_size`` K (2, a whole number, at least 2).

    Raises:
        KeyError: no ``rewards``, or no reference policy.
        ValueError: rows that do not make whole groups, shapes that do not belong together, a token id outside the
            vocabulary.
        ConfigError: a setting out of range or unknown.
    """

    group_size = Setting(2, least=2)

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        if self.group_size != self.contract.group_size:
            self.contract = refine(self.contract, group_size=self.group_size)

    def terms(self, h: Tensor, rewards: Tensor) -> Tensor:
        """Return [B/K] terms from log-ratios and rewards [B/K, K]."""
        raise NotImplementedError(f"{type(self).__name__} must define terms(self, h, rewards)")

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        h, w = sequence_log_ratio(batch, model_outputs)
        rewards = row_constant(batch, "rewards", h)
        terms = self.terms(active_groups(h, w, self.group_size), active_groups(rewards, w, self.group_size))
        return mean_of_groups(terms, w, batch, self.group_size)
