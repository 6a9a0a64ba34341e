"""Bradley-Terry reward model."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from loss_reference.interface import Batch, LossFunction, Outputs
from loss_reference.pairs import mean_of_pairs
from loss_reference.registry import register
from loss_reference.reward.contract import REWARD_PAIRS
from loss_reference.reward.scores import pair_scores
from loss_reference.token_level import refine

__all__ = ["BradleyTerryLoss", "bradley_terry"]


def bradley_terry(r_w: Tensor, r_l: Tensor) -> Tensor:
    """Return -log sigma(r_w - r_l), one term per pair of chosen and rejected rewards."""
    return -F.logsigmoid(r_w - r_l)


@register("bradley_terry")
class BradleyTerryLoss(LossFunction):
    """Bradley-Terry: L = mean over pairs of -log sigma(r_w - r_l).

    Reads ``rewards`` [B] of the model outputs, rows 0, 2, 4, ... chosen and 1, 3, 5, ... rejected; optional
    ``sample_mask`` [B], ``global_valid_seqs``. Result in nats, at least 0, log 2 at equal rewards; only r_w - r_l
    matters. The rewards receive gradient: dl/dr_w = -sigma(r_l - r_w) = -dl/dr_l.

    Raises:
        ValueError: an odd number of rows, shapes that do not belong together.
        ConfigError: any setting: it has none.

    Source: arXiv 2203.02155, eq. 1.
    """

    contract = refine(
        REWARD_PAIRS,
        direction={"chosen_scores": -1, "rejected_scores": +1},
    )
    strict_config = True

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        r_w, r_l, w = pair_scores(batch, model_outputs)
        return mean_of_pairs(bradley_terry(r_w, r_l), w, batch)
