"""Triple preference optimisation: a chosen and a rejected answer, and a gold one that is imitated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from torch import Tensor

from loss_reference.contract import Option
from loss_reference.groups import group_count, group_weights, mean_of_groups
from loss_reference.interface import Batch, LossFunction, Outputs
from loss_reference.logprobs import trained_logprobs
from loss_reference.parts import with_part
from loss_reference.preference.groupwise import active_groups, group_contract
from loss_reference.preference.imitation import cpo
from loss_reference.preference.margin import MARGIN_LOSSES
from loss_reference.preference.pairwise import trained_lengths
from loss_reference.preference.reference_free import simpo
from loss_reference.reduction import row_weights
from loss_reference.registry import register
from loss_reference.relevance import unless, where
from loss_reference.settings import Setting
from loss_reference.token_level import refine

__all__ = ["TPOLLoss", "TPOLoss", "TripleLoss", "tpo", "tpo_l"]

NLL_AVERAGES: Final = ("sequence", "tokens")
IMITATION: Final = {"tpo_alpha": Option(values=(0.0, 1.0)), "nll_average": Option(values=NLL_AVERAGES)}


def tpo(
    s_w: Tensor,
    s_l: Tensor,
    nll_gold: Tensor,
    beta: float = 0.01,
    alpha: float = 1.0,
    label_smoothing: float = 0.0,
    loss_type: str = "sigmoid",
) -> Tensor:
    """Return -(1 - e) log sigma(x) - e log sigma(-x) + alpha nll_gold, x = beta (s_w - s_l), one term per triple.

    Args:
        s_w, s_l: log-probability of the chosen and of the rejected answer [N], a sum over tokens, for ``"ipo"`` their mean.
        nll_gold: what imitating the gold answer costs [N], in nats.
        beta: strength of the preference, above 0.
        alpha: weight of the imitation, at least 0.
        label_smoothing: e in [0, 1/2], read by ``"sigmoid"`` alone.
        loss_type: what stands in the place of the first two parts, see ``margin_loss``.
    """
    return cpo(s_w, s_l, nll_gold, beta, alpha, label_smoothing, loss_type)


def tpo_l(
    s_w: Tensor, s_l: Tensor, nll_gold: Tensor, beta: float = 0.01, gamma: float = 0.5, alpha: float = 1.0
) -> Tensor:
    """Return -log sigma(beta (s_w - s_l) - gamma) + alpha nll_gold, one term per triple.

    Args:
        s_w, s_l: mean log-probability of the tokens of the chosen and of the rejected answer [N].
        nll_gold: what imitating the gold answer costs [N], in nats.
        beta: scale of the rewards, above 0.
        gamma: the margin asked for, at least 0; absolute, not a multiple of beta.
        alpha: weight of the imitation, at least 0.
    """
    preference = simpo(s_w - s_l, beta, gamma)
    return with_part(preference, alpha, nll_gold)


class TripleLoss(LossFunction):
    """L = mean over triples of ``terms(s_w, s_l, nll_gold)``: a score s per answer, and the NLL of the gold answer.

    Reads ``next_token_logprobs`` [B, S-1] (or ``logits`` [B, S, V] and ``input_ids``), ``token_mask`` [B, S]; optional
    ``sample_mask`` [B], ``global_valid_seqs``. No reference policy. Row 3i is chosen, 3i+1 rejected, 3i+2 gold; a triple
    weighs the smallest of its rows' weights. ``global_valid_seqs`` counts rows, three to a triple.

    Config, of every loss of triples: ``tpo_alpha`` (1.0, at least 0); ``nll_average`` (``"sequence"``: one mean per gold
    answer over its trained tokens, and their mean over triples; ``"tokens"``: one mean over the trained tokens of all gold
    answers of the batch at hand, as in TRL, so that losses of microbatches do not add up).

    Raises:
        ValueError: rows that do not make whole triples, shapes that do not belong together, a token id outside the
            vocabulary.
        ConfigError: a setting out of range or unknown.
    """

    tpo_alpha = Setting(1.0, least=0.0)
    nll_average = Setting("sequence", choices=NLL_AVERAGES, read_when=unless("tpo_alpha", 0))

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        if self.nll_average == "tokens":
            self.contract = refine(self.contract, normalizer="local")

    def averages(self) -> bool:
        """Return whether the score of an answer is the mean, not the sum, of lp over its trained tokens."""
        return False

    def terms(self, s_w: Tensor, s_l: Tensor, nll_gold: Tensor) -> Tensor:
        """Return [B/3] terms from the scores [B/3] of the chosen and of the rejected answers, and the NLL of the gold."""
        raise NotImplementedError(f"{type(self).__name__} must define terms(self, s_w, s_l, nll_gold)")

    def gold_nll(self, p_gold: Tensor, n_gold: Tensor, w: Tensor, batch: Batch) -> Tensor:
        """Return the NLL of every gold answer [B/3], of which ``mean_of_groups`` makes that of the batch.

        Args:
            p_gold: log-probability of the gold answers, summed over their trained tokens [B/3].
            n_gold: how many tokens these are [B/3].
            w: weights of the rows [B].
            batch: where ``global_valid_seqs`` comes from.
        """
        if self.nll_average == "sequence":
            return -p_gold / n_gold.clamp(min=1)
        # Over the tokens of all answers, each is divided by what their mean length is to the divisor of the triples.
        tokens = (group_weights(w, 3) * n_gold).sum()
        return -p_gold * (group_count(w, batch, 3) / tokens.clamp(min=1))

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        lp, m = trained_logprobs(batch, model_outputs)
        w, n = row_weights(batch, lp), trained_lengths(m)
        p, n = active_groups(lp.sum(dim=1), w, 3), active_groups(n.to(lp), w, 3)
        s_w, s_l, _ = (p / n.clamp(min=1) if self.averages() else p).unbind(dim=1)
        terms = self.terms(s_w, s_l, self.gold_nll(p[:, 2], n[:, 2], w, batch))
        return mean_of_groups(terms, w, batch, 3)


@register("tpo")
class TPOLoss(TripleLoss):
    """TPO: l = -(1 - e) log sigma(x) - e log sigma(-x) - tpo_alpha p_gold / n_gold, x = beta (p_w - p_l), p the sum of lp.

    Inputs and errors as in ``TripleLoss``. At least 0; log 2 - tpo_alpha p_gold / n_gold at equal p. With tpo_alpha = 0 the
    gold answer trains nothing, and l is that of ``cpo`` without its own NLL term.

    Config: ``beta`` (0.01, above 0); ``tpo_alpha`` (1.0, at least 0); ``label_smoothing`` e (0, at most 1/2; read by
    ``"sigmoid"`` alone); ``loss_type`` (``"sigmoid"``; ``"hinge"``: max(0, 1 - x); ``"ipo"``: (p_w / n_w - p_l / n_l -
    1 / (2 beta))^2, on means as in TRL); ``nll_average`` as in ``TripleLoss``.

    Source: arXiv 2405.16681.
    """

    contract = group_contract(
        direction={"tpo_alpha": +1},
        facts={"group_size": 3},
        beta=Option(values=(0.01, 1.0)),
        label_smoothing=Option(values=(0.0, 0.1, 0.5)),
        loss_type=Option(values=MARGIN_LOSSES),
        **IMITATION,
    )
    beta = Setting(0.01, above=0.0)
    label_smoothing = Setting(0.0, least=0.0, most=0.5, read_when=where("loss_type", "sigmoid"))
    loss_type = Setting("sigmoid", choices=MARGIN_LOSSES)

    def averages(self) -> bool:
        return self.loss_type == "ipo"

    def terms(self, s_w: Tensor, s_l: Tensor, nll_gold: Tensor) -> Tensor:
        return tpo(s_w, s_l, nll_gold, self.beta, self.tpo_alpha, self.label_smoothing, self.loss_type)


@register("tpo_l")
class TPOLLoss(TripleLoss):
    """TPO-L: l = -log sigma(beta (p_w - p_l) - gamma) - tpo_alpha p_gold, p the mean of lp over the trained tokens.

    Inputs and errors as in ``TripleLoss``. At least 0; softplus(gamma) - tpo_alpha p_gold at equal p. With tpo_alpha = 0 it
    is ``simpo`` on the chosen and the rejected answer.

    Config: ``beta`` (0.01, above 0); ``gamma`` (0.5, at least 0; absolute, not a multiple of beta); ``tpo_alpha`` (1.0, at
    least 0); ``nll_average`` as in ``TripleLoss``.

    Source: arXiv 2405.16681.
    """

    contract = group_contract(
        direction={"tpo_alpha": +1, "gamma": +1},
        facts={"group_size": 3, "length_normalized": True},
        beta=Option(values=(0.01, 1.0)),
        gamma=Option(values=(0.0, 0.5, 2.0)),
        **IMITATION,
    )
    beta = Setting(0.01, above=0.0)
    gamma = Setting(0.5, least=0.0)

    def averages(self) -> bool:
        return True

    def terms(self, s_w: Tensor, s_l: Tensor, nll_gold: Tensor) -> Tensor:
        return tpo_l(s_w, s_l, nll_gold, self.beta, self.gamma, self.tpo_alpha)
