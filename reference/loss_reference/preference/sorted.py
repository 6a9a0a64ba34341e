"""Alignment via optimal transport: distributions of scores are compared quantile by quantile, not pair by pair."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from loss_reference.contract import Option
from loss_reference.interface import Batch, Outputs
from loss_reference.logprobs import token_constant, trained_logprobs
from loss_reference.pairs import pair_weights
from loss_reference.preference.dpo import dpo, sequence_log_ratio
from loss_reference.preference.layout import PairedLoss
from loss_reference.preference.pairwise import BETA, active_pairs, pair_contract
from loss_reference.reduction import mean_of_terms, row_weights
from loss_reference.registry import register
from loss_reference.settings import Setting
from loss_reference.token_level import refine

__all__ = ["AOTLoss", "AOTUnpairedLoss", "quantile_differences"]

SORTED: Final = pair_contract(
    facts={"normalizer": "local", "coupled": True}, beta=BETA, label_smoothing=Option(values=(0.0, 0.1))
)


def quantile_differences(a: Tensor, b: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return (d, v), each [2N]: a_(q) - b_(q) on every stretch of quantiles q where both stay the same, and its length.

    With weights of 1 this is sort(a) - sort(b), N stretches of length 1 and N of length 0. A weight of 2 is the entry
    twice, a weight of 0 is its absence; the lengths add up to the sum of the weights.

    Args:
        a, b: numbers [N], finite.
        weights: their common weights [N], at least 0.
    """

    def in_order(x: Tensor) -> tuple[Tensor, Tensor]:
        order = x.detach().argsort(stable=True)
        return x[order], weights[order].cumsum(dim=0)

    (sorted_a, ends_a), (sorted_b, ends_b) = in_order(a), in_order(b)
    ends = torch.cat((ends_a, ends_b)).sort().values
    starts = torch.cat((ends.new_zeros(1), ends))[:-1]
    middle = (starts + ends) / 2

    def at_middle(x: Tensor, ends_x: Tensor) -> Tensor:
        return x[torch.searchsorted(ends_x, middle).clamp(max=len(x) - 1)]

    return at_middle(sorted_a, ends_a) - at_middle(sorted_b, ends_b), ends - starts


class SortedLoss(PairedLoss):
    """Pairs compared quantile by quantile, by the term of ``cdpo`` with its ``label_smoothing`` (0, at most 1/2)."""

    contract = SORTED
    label_smoothing = Setting(0.0, least=0.0, most=0.5)

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        if self.label_smoothing > 0:  # a margin that is too large is pulled back
            self.contract = refine(self.contract, direction={})


@register("aot")
class AOTLoss(SortedLoss):
    """AOT, paired: l = -log sigma(beta d), d = sort(p_w - p_l) - sort(ref_w - ref_l), p and ref sums of lp and lp_ref.

    Inputs and errors as in ``PairLoss``, except that ``global_valid_seqs`` is not read: the margins of the batch are
    sorted together, so a term depends on all pairs of the batch, losses of microbatches do not add up, and the divisor
    is the local sum of pair weights. At least 0, log 2 at policy = reference; ``dpo`` for one pair. The mean of d is
    that of h_w - h_l. The gradient flows through the sorted policy margins, the order is constant.

    Config: ``beta`` (0.1, above 0); ``label_smoothing`` e (0, at most 1/2: the term of ``cdpo`` at d; TRL reads
    its key so for AOT).

    Terms: ``dpo`` of d, which is made by ``quantile_differences``.

    Source: arXiv 2406.05882.
    """

    beta = Setting(0.1, above=0.0)

    def paired_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        lp, m = trained_logprobs(batch, model_outputs)
        w = row_weights(batch, lp)
        p_w, p_l = active_pairs(lp.sum(dim=1), w)
        ref_w, ref_l = active_pairs(token_constant(batch, "reference_policy_logprobs", m).sum(dim=1), w)
        d, v = quantile_differences(p_w - p_l, ref_w - ref_l, pair_weights(w))
        return mean_of_terms(dpo(d, self.beta, self.label_smoothing), v, None)


@register("aot_unpaired")
class AOTUnpairedLoss(SortedLoss):
    """AOT, unpaired: l = -log sigma(beta d), d = sort(h_w) - sort(h_l), h = sum_t m (lp - lp_ref).

    Inputs and errors as in ``PairLoss``, except that ``global_valid_seqs`` is not read: the log-ratios of all chosen and
    of all rejected rows are sorted, so a term depends on the whole batch, losses of microbatches do not add up, and the
    divisor is the local sum of pair weights. Which rejected answer stands beside which chosen one does not matter. At
    least 0, log 2 at policy = reference; ``dpo`` for one pair. The order is constant.

    Config: ``beta`` (0.1, above 0); ``label_smoothing`` e (0, at most 1/2: the term of ``cdpo`` at d; TRL reads
    its key so for AOT).

    Terms: ``dpo`` of d, which is made by ``quantile_differences``.

    Source: arXiv 2406.05882.
    """

    beta = Setting(0.1, above=0.0)

    def paired_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        h, w = sequence_log_ratio(batch, model_outputs)
        h_w, h_l = active_pairs(h, w)
        d, v = quantile_differences(h_w, h_l, pair_weights(w))
        return mean_of_terms(dpo(d, self.beta, self.label_smoothing), v, None)
