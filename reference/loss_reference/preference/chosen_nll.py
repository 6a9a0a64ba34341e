"""The NLL of the chosen answers, which many preference losses add, averaged over answers or over tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from torch import Tensor

from loss_reference.contract import Option
from loss_reference.interface import Batch
from loss_reference.pairs import pair_count, pair_weights
from loss_reference.preference.layout import PairedLoss
from loss_reference.preference.pairwise import active_pairs, trained_lengths
from loss_reference.reduction import row_weights
from loss_reference.settings import Setting
from loss_reference.token_level import refine

__all__ = ["NLL_AVERAGE", "NLL_AVERAGES", "ImitatingLoss"]

NLL_AVERAGES: Final = ("sequence", "tokens", "sum")
NLL_AVERAGE: Final = Option(values=NLL_AVERAGES)


class ImitatingLoss(PairedLoss):
    """A loss of pairs with an NLL of the chosen answers in it.

    Config: ``nll_average`` (``"sequence"``: one mean per chosen answer over its trained tokens, then the mean over pairs;
    ``"tokens"``: one mean over the trained tokens of all chosen answers of the batch at hand, as TRL and Liger take it, so
    that losses of microbatches do not add up; ``"sum"``: one sum per chosen answer, then the mean over pairs, NeMo RL unless
    told to average).
    """

    nll_average = Setting("sequence", choices=NLL_AVERAGES)

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        if self.nll_average == "tokens":
            self.contract = refine(self.contract, normalizer="local")
        elif self.nll_average == "sum":
            self.contract = refine(self.contract, length_normalized=False)

    def chosen_nll(self, lp: Tensor, m: Tensor, batch: Batch) -> Tensor:
        """Return the NLL of every chosen answer [N], of which ``mean_of_pairs`` makes that of the batch.

        Args:
            lp: log-probabilities of the tokens that are imitated, 0 at the others [B, S-1].
            m: their weights [B, S-1].
            batch: where ``sample_mask`` [B] and ``global_valid_seqs`` come from.
        """
        n, w = trained_lengths(m).to(lp), row_weights(batch, lp)
        nll_w, _ = active_pairs(-lp.sum(dim=1), w)
        if self.nll_average == "sum":
            return nll_w
        n_w, _ = active_pairs(n, w)
        if self.nll_average == "sequence":
            return nll_w / n_w.clamp(min=1)
        # Over the tokens of all answers, each is divided by what their mean length is to the divisor of the pairs.
        tokens, pairs = (pair_weights(w) * n_w).sum(), pair_count(w, batch)
        return nll_w * (pairs / tokens.clamp(min=1))
