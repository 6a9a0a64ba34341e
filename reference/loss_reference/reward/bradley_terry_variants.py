"""Bradley-Terry reward models that know more about a pair, or hold the scores near 0."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from loss_reference.contract import Field, Option
from loss_reference.interface import Batch, LossFunction, Outputs
from loss_reference.pairs import mean_of_pairs
from loss_reference.reduction import keep_active
from loss_reference.registry import register
from loss_reference.reward.contract import REWARD_PAIRS
from loss_reference.reward.scores import pair_constant, pair_scores
from loss_reference.settings import Setting
from loss_reference.token_level import refine

__all__ = [
    "BTCenteredLoss",
    "BTMarginLoss",
    "BTSoftLabelLoss",
    "LogExpPairwiseLoss",
    "bt_centered",
    "bt_margin",
    "bt_soft_label",
    "logexp_pairwise",
]


def bt_margin(r_w: Tensor, r_l: Tensor, margin: Tensor) -> Tensor:
    """Return -log sigma(r_w - r_l - margin), one term per pair, for scores and margins [N]."""
    return -F.logsigmoid(r_w - r_l - margin)


def bt_centered(r_w: Tensor, r_l: Tensor, center_coefficient: float = 0.01) -> Tensor:
    """Return -log sigma(r_w - r_l) + c (r_w + r_l)^2, one term per pair, for scores [N]; c at least 0."""
    return -F.logsigmoid(r_w - r_l) + center_coefficient * (r_w + r_l) ** 2


def logexp_pairwise(r_w: Tensor, r_l: Tensor) -> Tensor:
    """Return log(1 + e^(r_l - r_w)), one term per pair, for scores [N]; the exponential itself is never formed."""
    return torch.logaddexp(torch.zeros_like(r_w), r_l - r_w)


def bt_soft_label(r_w: Tensor, r_l: Tensor, q: Tensor) -> Tensor:
    """Return -q log sigma(r_w - r_l) - (1 - q) log sigma(r_l - r_w), one term per pair, for scores and q [N].

    What a certain label rules out is not taken: 0 times the -inf of an infinite score.
    """
    return -q * keep_active(F.logsigmoid(r_w - r_l), q) - (1 - q) * keep_active(F.logsigmoid(r_l - r_w), 1 - q)


@register("bt_margin")
class BTMarginLoss(LossFunction):
    """Bradley-Terry with a margin: L = mean over pairs of -log sigma(r_w - r_l - margin).

    Reads ``rewards`` [B] of the model outputs, rows 0, 2, 4, ... chosen, and ``margin`` [B], of which only the entries of
    chosen rows are read; optional ``sample_mask`` [B], ``global_valid_seqs``. Result in nats, at least 0;
    softplus(margin) at equal rewards; ``bradley_terry`` for margins of 0. The rewards receive gradient, margins do not.

    Raises:
        KeyError: no ``margin``.
        ValueError: an odd number of rows, shapes that do not belong together.
        ConfigError: any setting: it has none.

    Source: arXiv 2307.09288, eq. 2; TRL, OpenRLHF.
    """

    contract = refine(
        REWARD_PAIRS,
        direction={"chosen_scores": -1, "rejected_scores": +1, "margin": +1},
        fields={"margin": Field("values", "B")},
    )
    strict_config = True

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        r_w, r_l, w = pair_scores(batch, model_outputs)
        return mean_of_pairs(bt_margin(r_w, r_l, pair_constant(batch, "margin", w)), w, batch)


@register("bt_centered")
class BTCenteredLoss(LossFunction):
    """Bradley-Terry with centred scores: L = mean over pairs of -log sigma(r_w - r_l) + c (r_w + r_l)^2.

    Reads ``rewards`` [B] of the model outputs, rows 0, 2, 4, ... chosen; optional ``sample_mask`` [B],
    ``global_valid_seqs``. Bradley-Terry alone sees only the difference; the second term fixes the level of the scores at
    0. Result at least 0, log 2 at rewards of 0; ``bradley_terry`` for c = 0. The rewards receive gradient.

    Config: ``center_coefficient`` c (0.01, at least 0; TRL ``center_rewards_coefficient``, off by default there).

    Raises:
        ValueError: an odd number of rows, shapes that do not belong together.
        ConfigError: a setting out of range or unknown.

    Source: arXiv 2312.09244.
    """

    contract = refine(
        REWARD_PAIRS,
        direction={"center_coefficient": +1},
        options={"center_coefficient": Option(values=(0.0, 0.01, 1.0), reduces_to={0.0: "bradley_terry"})},
    )
    center_coefficient = Setting(0.01, least=0.0)

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        r_w, r_l, w = pair_scores(batch, model_outputs)
        return mean_of_pairs(bt_centered(r_w, r_l, self.center_coefficient), w, batch)


@register("logexp_pairwise")
class LogExpPairwiseLoss(LossFunction):
    """Log-exp: L = mean over pairs of log(1 + e^(r_l - r_w)), which is ``bradley_terry`` written another way.

    Reads ``rewards`` [B] of the model outputs, rows 0, 2, 4, ... chosen; optional ``sample_mask`` [B],
    ``global_valid_seqs``. Result in nats, at least 0, log 2 at equal rewards. The rewards receive gradient. No margin is
    read. OpenRLHF forms the exponential first, which overflows where r_l exceeds r_w by more than 88 in float32; here
    the result is then r_l - r_w.

    Raises:
        ValueError: an odd number of rows, shapes that do not belong together.
        ConfigError: any setting: it has none.

    Source: arXiv 2204.05862; OpenRLHF ``LogExpLoss``.
    """

    contract = refine(
        REWARD_PAIRS,
        baseline="bradley_terry",
        direction={"chosen_scores": -1, "rejected_scores": +1},
    )
    strict_config = True

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        r_w, r_l, w = pair_scores(batch, model_outputs)
        return mean_of_pairs(logexp_pairwise(r_w, r_l), w, batch)


@register("bt_soft_label")
class BTSoftLabelLoss(LossFunction):
    """Bradley-Terry with soft labels: l = -q log sigma(r_w - r_l) - (1 - q) log sigma(r_l - r_w).

    q is the probability that the first row of the pair wins. Reads ``rewards`` [B] of the model outputs and
    ``preference_probability`` [B], of which only the entries of rows 0, 2, 4, ... are read, each from 0 to 1; optional
    ``sample_mask`` [B], ``global_valid_seqs``. Mean over pairs, in nats, at least the entropy of q, reached at
    r_w - r_l = log(q / (1 - q)); log 2 at equal rewards; ``bradley_terry`` for q = 1. The rewards receive gradient:
    dl/dr_w = sigma(r_w - r_l) - q = -dl/dr_l.

    Raises:
        KeyError: no ``preference_probability``.
        ValueError: an odd number of rows, shapes that do not belong together.
        ConfigError: any setting: it has none.

    Source: the cross entropy of a Bernoulli label of probability q.
    """

    contract = refine(
        REWARD_PAIRS,
        fields={"preference_probability": Field("probabilities", "B")},
    )
    strict_config = True

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        r_w, r_l, w = pair_scores(batch, model_outputs)
        return mean_of_pairs(bt_soft_label(r_w, r_l, pair_constant(batch, "preference_probability", w)), w, batch)
