"""Binary classifier optimisation of single answers: rewards are measured from their own running mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from loss_reference.contract import Field
from loss_reference.interface import Batch, LossFunction, Outputs
from loss_reference.preference.dpo import sequence_log_ratio
from loss_reference.preference.pairwise import BETA, row_constant
from loss_reference.preference.unpaired import unpaired_contract
from loss_reference.reduction import keep_active, mean_of_rows
from loss_reference.registry import register
from loss_reference.settings import Setting

__all__ = ["BCOLoss", "bco", "density_ratio"]


def bco(r: Tensor, desirable: Tensor, shift: Tensor) -> Tensor:
    """Return -log sigma(r - shift) where ``desirable`` and -log sigma(shift - r) elsewhere, one term per row.

    Args:
        r: beta h [B].
        desirable: bool [B].
        shift: scalar constant.
    """
    return -F.logsigmoid(torch.where(desirable, r - shift, shift - r))


def density_ratio(p: Tensor) -> Tensor:
    """Return p / (1 - p + 1e-8) within [0.5, 10], the weight of an undesirable answer whose prompt looks desirable."""
    return (p / (1 - p + 1e-8)).clamp(0.5, 10.0)


@register("bco")
class BCOLoss(LossFunction):
    """BCO: l = -log sigma(r - d) where desirable, -log sigma(d - r) elsewhere, r = beta h, d the running mean of all r.

    Reads ``next_token_logprobs`` [B, S-1] (or ``logits`` [B, S, V] and ``input_ids``), ``reference_policy_logprobs``
    [B, S], ``token_mask`` [B, S], ``labels`` [B] (not 0: desirable); optional ``desirable_probability`` [B],
    ``sample_mask`` [B], ``global_valid_seqs``. With the probability p that the prompt of a row is one of a desirable
    answer, an undesirable row weighs p / (1 - p) within [0.5, 10] as well, which matches the two distributions of prompts.
    Only the policy receives gradient: dl/dr = -sigma(d - r) where desirable, sigma(r - d) elsewhere; d is constant. At
    least 0; log 2 at policy = reference in the first batch.

    State, saved with the loss: ``reward_mean`` d and ``reward_count``, both 0 at first. In training mode a call takes the r
    of its rows of nonzero weight, each once, into the mean and then uses it; in evaluation mode it uses the mean as it
    stands. An r that is not finite, that of an answer which policy or reference cannot give, stays out of it. The mean is
    that of this process: TRL takes it over all of them. Terms depend on the whole batch through d.

    Config: ``beta`` (0.1, above 0).

    Raises:
        KeyError: no ``labels``, or no reference policy.
        ValueError: shapes that do not belong together, a token id outside the vocabulary.
        ConfigError: a setting out of range or unknown.

    Source: arXiv 2404.04656.
    """

    contract = unpaired_contract(
        facts={
            "stateful": True,
            "coupled": True,
            "surrogate_gradient": True,
            "fields": {"desirable_probability": Field("probabilities", "B")},
        },
        beta=BETA,
    )
    beta = Setting(0.1, above=0.0)
    reward_mean: Tensor
    reward_count: Tensor

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        self.register_buffer("reward_mean", torch.zeros((), dtype=torch.float64))
        self.register_buffer("reward_count", torch.zeros((), dtype=torch.float64))

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        h, w = sequence_log_ratio(batch, model_outputs)
        r, desirable = self.beta * h, row_constant(batch, "labels", h) != 0
        if self.training:
            self._take_in(r.detach(), (w != 0) & r.isfinite())
        terms = bco(r, desirable, self.reward_mean.to(r))
        if "desirable_probability" in batch:
            p = keep_active(row_constant(batch, "desirable_probability", h), w)
            terms = terms * torch.where(desirable, 1.0, density_ratio(p))
        return mean_of_rows(terms, w, batch)

    def _take_in(self, r: Tensor, active: Tensor) -> None:
        self.reward_count = self.reward_count + active.sum()
        gaps = torch.where(active, r.to(self.reward_mean) - self.reward_mean, 0.0)
        self.reward_mean = self.reward_mean + gaps.sum() / self.reward_count.clamp(min=1)
