"""DPO that does not reward length: tokens past the shorter answer count less, or the length is paid for."""

from __future__ import annotations

import torch
from torch import Tensor

from loss_reference.contract import Option
from loss_reference.interface import Batch, Outputs
from loss_reference.pairs import mean_of_pairs, split_pairs
from loss_reference.preference.dpo import dpo
from loss_reference.preference.layout import PairedLoss
from loss_reference.preference.pairwise import (
    BETA,
    PairLoss,
    active_pairs,
    pair_contract,
    token_log_ratio,
    trained_lengths,
)
from loss_reference.reduction import keep_active, row_weights
from loss_reference.registry import register
from loss_reference.settings import Setting

__all__ = ["LDDPOLoss", "RDPOLoss", "common_length_weights", "r_dpo"]


def common_length_weights(m: Tensor, alpha: float = 0.5) -> Tensor:
    """Return [B, S-1]: 1 on the first L trained tokens of a row, ``alpha`` on the rest, L = min(n_w, n_l) of its pair.

    Tokens are counted along the weights ``m`` [B, S-1], not along positions: prompt and holes do not count.
    """
    n_w, n_l = split_pairs(trained_lengths(m))
    L = torch.minimum(n_w, n_l).repeat_interleave(2)
    ordinal = (m != 0).cumsum(dim=1)
    return torch.where(ordinal <= L.unsqueeze(1), m.new_ones(()), alpha)


def r_dpo(delta: Tensor, n_w: Tensor, n_l: Tensor, beta: float = 0.1, alpha: float = 0.01) -> Tensor:
    """Return -log sigma(beta delta + alpha (n_w - n_l)), one term per pair.

    Args:
        delta: h_w - h_l [N], in nats.
        n_w, n_l: trained tokens of the chosen and of the rejected answer [N].
        beta: strength of the pull towards the reference, above 0.
        alpha: price of a token.
    """
    return dpo(beta * delta + alpha * (n_w - n_l).to(delta), beta=1.0)


@register("ld_dpo")
class LDDPOLoss(PairLoss):
    """LD-DPO: l = -log sigma(beta (h_w - h_l)), h = sum_{t <= L} (lp - lp_ref) + alpha sum_{t > L} (lp - lp_ref).

    L = min(n_w, n_l) trained tokens. Inputs and errors as in ``PairLoss``. At least 0, log 2 at policy = reference;
    ``dpo`` for alpha = 1 and for answers of equal length. Tokens past L receive alpha times the gradient of the others.

    Config: ``beta`` (0.1, above 0); ``alpha`` (0.5, from 0, which drops the tail, to 1).

    Terms: ``dpo`` of h weighed by ``common_length_weights``.

    Source: arXiv 2409.06411.
    """

    contract = pair_contract(beta=BETA, alpha=Option(values=(0.0, 0.5, 1.0), reduces_to={1.0: "dpo"}))
    beta = Setting(0.1, above=0.0)
    alpha = Setting(0.5, least=0.0, most=1.0)

    def scores(self, batch: Batch, model_outputs: Outputs) -> tuple[Tensor, Tensor]:
        ratio, m = token_log_ratio(batch, model_outputs)
        shares = common_length_weights(m, self.alpha)
        return (shares * keep_active(ratio, shares)).sum(dim=1), row_weights(batch, ratio)

    def terms(self, h_w: Tensor, h_l: Tensor, /) -> Tensor:
        return dpo(h_w - h_l, self.beta)


@register("r_dpo")
class RDPOLoss(PairedLoss):
    """R-DPO: l = -log sigma(beta (h_w - h_l) + alpha (n_w - n_l)), n the number of trained tokens.

    Inputs and errors as in ``PairLoss``. At least 0, softplus(-alpha (n_w - n_l)) at policy = reference; ``dpo`` for
    alpha = 0 and for answers of equal length. A long chosen answer needs less margin and is pushed less.

    Config: ``beta`` (0.1, above 0); ``alpha`` (0.01, at least 0).

    Source: arXiv 2403.19159.
    """

    contract = pair_contract(beta=BETA, alpha=Option(values=(0.0, 0.01, 1.0), reduces_to={0.0: "dpo"}))
    beta = Setting(0.1, above=0.0)
    alpha = Setting(0.01, least=0.0)

    def paired_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        ratio, m = token_log_ratio(batch, model_outputs)
        w = row_weights(batch, ratio)
        h_w, h_l = active_pairs(ratio.sum(dim=1), w)
        n_w, n_l = split_pairs(trained_lengths(m))
        return mean_of_pairs(r_dpo(h_w - h_l, n_w, n_l, self.beta, self.alpha), w, batch)
