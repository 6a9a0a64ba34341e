"""Preference losses without a reference policy that imitate the chosen answer at the same time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from loss_reference.contract import Option
from loss_reference.interface import Batch, Outputs
from loss_reference.logprobs import next_token_logprobs, trained_logprobs
from loss_reference.pairs import mean_of_pairs
from loss_reference.parts import with_part
from loss_reference.preference.chosen_nll import NLL_AVERAGE, NLL_AVERAGES, ImitatingLoss
from loss_reference.preference.margin import MARGIN_LOSSES, margin_loss
from loss_reference.preference.pairwise import BETA, MONOTONE, active_pairs, pair_contract, trained_lengths
from loss_reference.reduction import row_weights
from loss_reference.registry import register
from loss_reference.relevance import unless, where
from loss_reference.settings import Setting
from loss_reference.shapes import require_shape
from loss_reference.token_level import refine

__all__ = ["CPOLoss", "ORPOLoss", "cpo", "every_token", "log1mexp", "log_odds", "odds_ratio", "orpo"]

CLOSEST_TO_CERTAIN: Final = -torch.finfo(torch.float32).eps
"""The log-probability nearest to 0 that a float32 softmax can tell from it: odds of 8 million to 1."""


def log1mexp(x: Tensor) -> Tensor:
    """Return log(1 - exp(x)) for x < 0, accurate at both ends."""
    return torch.where(x > -math.log(2), torch.log(-torch.expm1(x)), torch.log1p(-torch.exp(x)))


def log_odds(p: Tensor) -> Tensor:
    """Return log(P / (1 - P)) for P = exp(p), with p [N] at most 0 taken no closer to 0 than float32 can tell."""
    p = p.clamp(max=CLOSEST_TO_CERTAIN)
    return p - log1mexp(p)


def odds_ratio(p_w: Tensor, p_l: Tensor) -> Tensor:
    """Return -log sigma(log odds(p_w) - log odds(p_l)), one term per pair.

    Args:
        p_w, p_l: mean log-probability of the tokens of the chosen and of the rejected answer [N], at most 0.
    """
    return -F.logsigmoid(log_odds(p_w) - log_odds(p_l))


def orpo(p_w: Tensor, p_l: Tensor, nll_w: Tensor, beta: float = 0.1) -> Tensor:
    """Return nll_w - beta log sigma(log odds(p_w) - log odds(p_l)), one term per pair.

    Args:
        p_w, p_l: mean log-probability of the tokens of the chosen and of the rejected answer [N], at most 0.
        nll_w: what imitating the chosen answer costs [N], in nats.
        beta: weight of the odds ratio, above 0.
    """
    return nll_w + beta * odds_ratio(p_w, p_l)


def cpo(
    p_w: Tensor,
    p_l: Tensor,
    nll_w: Tensor,
    beta: float = 0.1,
    alpha: float = 1.0,
    label_smoothing: float = 0.0,
    loss_type: str = "sigmoid",
) -> Tensor:
    """Return -(1 - e) log sigma(x) - e log sigma(-x) + alpha nll_w, x = beta (p_w - p_l), one term per pair.

    Args:
        p_w, p_l: log-probability of the chosen and of the rejected answer [N], a sum over tokens, for ``"ipo"`` their mean.
        nll_w: what imitating the chosen answer costs [N], in nats.
        beta: strength of the preference, above 0.
        alpha: weight of the imitation, at least 0.
        label_smoothing: e in [0, 1/2], read by ``"sigmoid"`` alone.
        loss_type: what stands in the place of the first two parts, see ``margin_loss``.
    """
    preference = margin_loss(p_w - p_l, loss_type, beta, label_smoothing)
    return with_part(preference, alpha, nll_w)


def every_token(batch: Batch, like: Tensor) -> Tensor:
    """Return [B, S-1]: the row weight at every next token that exists, prompt included, and 0 at padding behind it.

    ``input_lengths`` [B] counts the tokens of a row; without it a row has no padding.

    Raises:
        ValueError: ``input_lengths`` is not [B].
    """
    weights = row_weights(batch, like).unsqueeze(1).expand(like.shape)
    if "input_lengths" not in batch:
        return weights
    require_shape("input_lengths", batch["input_lengths"], (like.shape[0],), "one length per row")
    position = torch.arange(1, like.shape[1] + 1, device=like.device)
    return torch.where(position < batch["input_lengths"].detach().unsqueeze(1), weights, 0.0)


@register("orpo")
class ORPOLoss(ImitatingLoss):
    """ORPO: l = -p_w - beta log sigma(log odds(p_w) - log odds(p_l)), odds(p) = exp(p) / (1 - exp(p)), p the mean of lp.

    Inputs and errors as in ``PairLoss``, without a reference policy. At least 0, -p_w + beta log 2 at equal p. The first
    term is the NLL of the chosen answer. An answer without trained tokens has no odds: its pair
    counts as one of equal odds. dl/dp_w = -1 - beta sigma(-z) / (1 - exp(p_w)), z the difference of log odds.

    Config: ``beta`` (0.1, above 0), the paper's lambda; ``nll_span`` (``"response"``: the NLL is that of the trained
    tokens, Liger's default; ``"full"``: of prompt and response as in TRL, that is of all tokens before
    ``input_lengths`` [B], or of the whole row when the batch does not say how long its rows are); ``nll_average`` as in
    ``ImitatingLoss``. TRL's number is that of ``"full"`` with ``"tokens"``, Liger's that of ``"response"`` with ``"tokens"``.

    Source: arXiv 2403.07691.
    """

    contract = pair_contract(
        direction={**MONOTONE, "beta": +1},
        facts={"length_normalized": True},
        beta=BETA,
        nll_span=Option(values=("response", "full")),
        nll_average=NLL_AVERAGE,
    )
    beta = Setting(0.1, above=0.0)
    nll_span = Setting("response", choices=("response", "full"))

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        if self.nll_span == "full":
            reason = "the NLL covers the prompt on purpose"
            laws = dict.fromkeys(("mask_value", "mask_extreme", "mask_gradient"), reason)
            self.contract = refine(self.contract, length_normalized=False, exempt={**self.contract.exempt, **laws})

    def paired_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        lp, m = trained_logprobs(batch, model_outputs)
        n, w = trained_lengths(m), row_weights(batch, lp)
        p = lp.sum(dim=1) / n.clamp(min=1)
        n_w, n_l = active_pairs(n, w)
        # An answer of no tokens has no odds: those of both answers are then alike.
        p_w, p_l = (torch.where((n_w > 0) & (n_l > 0), x, -math.log(2)) for x in active_pairs(p, w))
        if self.nll_span == "full":
            m = every_token(batch, batch["token_mask"][:, 1:].to(lp))
            lp = next_token_logprobs(batch, model_outputs, m)
        return mean_of_pairs(orpo(p_w, p_l, self.chosen_nll(lp, m, batch), self.beta), w, batch)


@register("cpo")
class CPOLoss(ImitatingLoss):
    """CPO: l = -(1 - e) log sigma(x) - e log sigma(-x) - alpha p_w / n_w, x = beta (p_w - p_l), p the sum of lp.

    Inputs and errors as in ``PairLoss``, without a reference policy. At least 0, log 2 - alpha p_w / n_w at equal p. The
    last term is the NLL of the chosen answer over its n_w trained tokens.

    Config: ``beta`` (0.1, above 0); ``alpha`` (1.0, at least 0; TRL ``cpo_alpha``); ``label_smoothing`` e (0, at most
    1/2; read by ``"sigmoid"`` alone); ``loss_type`` of TRL's CPO trainer (``"sigmoid"``; ``"hinge"``: max(0, 1 - x);
    ``"ipo"``: (p_w / n_w - p_l / n_l - 1 / (2 beta))^2, on means); ``nll_average`` as in ``ImitatingLoss``. TRL's and
    Liger's number is that of ``"tokens"``.

    Source: arXiv 2401.08417.
    """

    contract = pair_contract(
        direction={"alpha": +1},
        beta=BETA,
        alpha=Option(values=(0.0, 1.0)),
        label_smoothing=Option(values=(0.0, 0.1, 0.5)),
        loss_type=Option(values=MARGIN_LOSSES),
        nll_average=NLL_AVERAGE,
    )
    beta = Setting(0.1, above=0.0)
    alpha = Setting(1.0, least=0.0)
    label_smoothing = Setting(0.0, least=0.0, most=0.5, read_when=where("loss_type", "sigmoid"))
    loss_type = Setting("sigmoid", choices=MARGIN_LOSSES)
    nll_average = Setting("sequence", choices=NLL_AVERAGES, read_when=unless("alpha", 0))

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        pulled_back = self.loss_type == "sigmoid" and self.label_smoothing > 0
        if self.loss_type != "ipo" and not pulled_back:  # as a margin that is too large is
            self.contract = refine(self.contract, direction={**MONOTONE, **self.contract.direction})
        # Margins of 3 nats are met in every batch; beyond log((1 - e) / e) the smoothed term wants them back.
        if pulled_back and self.alpha > 0 and math.log(1 / self.label_smoothing - 1) <= 3 * self.beta:
            reason = "smoothed labels pull a large margin back, by the rejected answer alone where the NLL holds the chosen one"
            self.contract = refine(self.contract, exempt={**self.contract.exempt, "rejected_is_not_raised": reason})

    def paired_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        lp, m = trained_logprobs(batch, model_outputs)
        w = row_weights(batch, lp)
        n = trained_lengths(m).clamp(min=1) if self.loss_type == "ipo" else 1
        p_w, p_l = active_pairs(lp.sum(dim=1) / n, w)
        nll_w = self.chosen_nll(lp, m, batch)
        terms = cpo(p_w, p_l, nll_w, self.beta, self.alpha, self.label_smoothing, self.loss_type)
        return mean_of_pairs(terms, w, batch)
