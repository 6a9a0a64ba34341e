"""Named sums of preference and imitation: RPO with its NLL, and mixed preference optimisation."""

from __future__ import annotations

from typing import Final

from torch import Tensor

from loss_reference.contract import Contract, Option
from loss_reference.interface import Batch, Outputs
from loss_reference.logprobs import token_constant, trained_logprobs
from loss_reference.pairs import mean_of_pairs
from loss_reference.parts import with_part
from loss_reference.preference.absolute import bco_pair
from loss_reference.preference.chosen_nll import NLL_AVERAGE, NLL_AVERAGES, ImitatingLoss
from loss_reference.preference.dpo import dpo
from loss_reference.preference.layout import PAIR_LAYOUT, ROLLED_REFERENCE, ReferencedPairsLoss
from loss_reference.preference.pairwise import BETA, active_pairs
from loss_reference.reduction import row_weights
from loss_reference.registry import register
from loss_reference.relevance import unless
from loss_reference.settings import Setting
from loss_reference.token_level import refine

__all__ = ["MPOLoss", "RPONLLLoss", "mpo", "rpo_nll"]

PRESET: Final = Contract(
    family="composite", level="pair", normalizer="global", length_normalized=False, lower_bound=0.0
)
WEIGHT: Final = Option(values=(0.0, 0.5, 1.0))


def rpo_nll(delta: Tensor, nll_w: Tensor, beta: float = 0.1, alpha: float = 1.0) -> Tensor:
    """Return -log sigma(beta delta) + alpha nll_w, one term per pair.

    Args:
        delta: h_w - h_l [N], the log-ratio of the chosen minus that of the rejected sequence, in nats.
        nll_w: what imitating the chosen answer costs [N], in nats.
        beta: strength of the pull towards the reference, above 0.
        alpha: weight of the imitation, at least 0.
    """
    preference = dpo(delta, beta)
    return with_part(preference, alpha, nll_w)


def mpo(r_w: Tensor, r_l: Tensor, nll_w: Tensor, weights: tuple[float, float, float] = (0.8, 0.2, 1.0)) -> Tensor:
    """Return -w_p log sigma(r_w - r_l) - w_q (log sigma(r_w) + log sigma(-r_l)) + w_g nll_w, one term per pair.

    Args:
        r_w, r_l: beta h, the rewards of the chosen and of the rejected answer [N].
        nll_w: what imitating the chosen answer costs [N], in nats.
        weights: w_p, w_q and w_g, of preference, quality and generation, at least 0.
    """
    w_p, w_q, w_g = weights
    terms = w_p * dpo(r_w - r_l, beta=1.0) + w_q * bco_pair(r_w, r_l)
    return with_part(terms, w_g, nll_w)


@register("rpo_nll")
class RPONLLLoss(ReferencedPairsLoss, ImitatingLoss):
    """Iterative RPO: l = -log sigma(beta (h_w - h_l)) - alpha p_w / n_w, the mean over pairs, p the sum of lp.

    DPO plus the NLL of the chosen answer over its n_w trained tokens, which keeps its probability from
    falling with that of the rejected one. Inputs and errors as in ``PairLoss``. In nats, at least 0; log 2 plus alpha times
    the NLL at policy = reference. The second part adds -alpha / n_w to dl/dlp of the chosen tokens.

    Config: ``beta`` (0.1, above 0); ``alpha`` (1, at least 0; 0 is ``DPOLoss``; TRL ``rpo_alpha``); ``nll_average`` as in
    ``ImitatingLoss``. TRL's number is that of ``"tokens"``, NeMo RL's (``sft_loss_weight`` alpha) that of ``"sum"``, or of
    ``"sequence"`` with its ``sft_average_log_probs``; its reference is rolled, ``rolled_reference=True``, see ``DPOLoss``.

    Source: arXiv 2404.19733, eq. 1.
    """

    contract = refine(
        PRESET,
        direction={"alpha": +1},
        options={
            "beta": BETA,
            "alpha": Option(values=(0.0, 1.0), reduces_to={0.0: "dpo"}),
            "nll_average": NLL_AVERAGE,
            "pair_layout": PAIR_LAYOUT,
            "rolled_reference": ROLLED_REFERENCE,
        },
    )
    beta = Setting(0.1, above=0.0)
    alpha = Setting(1.0, least=0.0)
    nll_average = Setting("sequence", choices=NLL_AVERAGES, read_when=unless("alpha", 0))

    def paired_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        lp, m = trained_logprobs(batch, model_outputs)
        w = row_weights(batch, lp)
        h_w, h_l = active_pairs((lp - token_constant(batch, "reference_policy_logprobs", m)).sum(dim=1), w)
        terms = rpo_nll(h_w - h_l, self.chosen_nll(lp, m, batch), self.beta, self.alpha)
        return mean_of_pairs(terms, w, batch)


@register("mpo")
class MPOLoss(ImitatingLoss):
    """MPO: L = w_p DPO + w_q BCO + w_g NLL(chosen), with r = beta h.

    DPO, -log sigma(r_w - r_l), says which answer is better; BCO, -log sigma(r_w) - log sigma(-r_l), whether each is good by
    itself; the NLL how to write the better one. Inputs and errors as in ``PairLoss``. In nats, at least 0;
    (w_p + 2 w_q) log 2 + w_g NLL at policy = reference. BCO is that of ``BCOPairLoss``, without a running reward shift. A part
    of weight 0 adds nothing.

    Config: ``beta`` (0.1, above 0); ``preference_weight`` w_p (0.8), ``quality_weight`` w_q (0.2), ``generation_weight``
    w_g (1), all at least 0; ``nll_average`` as in ``ImitatingLoss``. TRL's ``"sft"`` component is that of ``"tokens"``.

    Source: arXiv 2411.10442, section 3.2; TRL's ``loss_type`` list ``["sigmoid", "bco_pair", "sft"]``.
    """

    contract = refine(
        PRESET,
        direction={"preference_weight": +1, "quality_weight": +1, "generation_weight": +1},
        options={
            "beta": BETA,
            "preference_weight": WEIGHT,
            "quality_weight": WEIGHT,
            "generation_weight": WEIGHT,
            "nll_average": NLL_AVERAGE,
            "pair_layout": PAIR_LAYOUT,
        },
    )
    beta = Setting(0.1, above=0.0, read_when=unless("preference_weight", 0) | unless("quality_weight", 0))
    preference_weight = Setting(0.8, least=0.0)
    quality_weight = Setting(0.2, least=0.0)
    generation_weight = Setting(1.0, least=0.0)
    nll_average = Setting("sequence", choices=NLL_AVERAGES, read_when=unless("generation_weight", 0))

    def paired_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        lp, m = trained_logprobs(batch, model_outputs)
        w = row_weights(batch, lp)
        h_w, h_l = active_pairs((lp - token_constant(batch, "reference_policy_logprobs", m)).sum(dim=1), w)
        weights = self.preference_weight, self.quality_weight, self.generation_weight
        terms = mpo(self.beta * h_w, self.beta * h_l, self.chosen_nll(lp, m, batch), weights)
        return mean_of_pairs(terms, w, batch)
