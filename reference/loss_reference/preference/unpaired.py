"""Preference losses of single answers, each labelled desirable or not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from loss_reference.contract import Contract, Field, Option
from loss_reference.interface import Batch, LossFunction, Outputs
from loss_reference.preference.dpo import sequence_log_ratio
from loss_reference.preference.pairwise import BETA, row_constant
from loss_reference.reduction import global_count, keep_active, mean_of_rows, mean_of_terms
from loss_reference.registry import register
from loss_reference.settings import Setting
from loss_reference.token_level import refine

__all__ = ["APOZeroUnpairedLoss", "KTOLoss", "UnpairedLoss", "kto", "unpaired_contract"]

WEIGHTS: Final = Option(values=(0.5, 1.0))


def kto(
    h: Tensor,
    desirable: Tensor,
    z: Tensor | float = 0.0,
    beta: float = 0.1,
    lambda_D: float = 1.0,
    lambda_U: float = 1.0,
) -> Tensor:
    """Return lambda_D (1 - sigma(beta (h - z))) where ``desirable``, lambda_U sigma(beta (h - z)) elsewhere, one per row.

    Formed as sigma(-x) and sigma(x), which keep their digits at both ends.

    Args:
        h: log-ratios of whole answers [B], in nats.
        desirable: bool [B].
        z: the reference point that h is measured from, in nats, a constant.
        beta: strength of the pull towards the reference, above 0.
        lambda_D, lambda_U: weights of a desirable answer and of another, at least 0.
    """
    x = beta * (h - z)
    return torch.where(desirable, h.new_full((), lambda_D), lambda_U) * torch.sigmoid(torch.where(desirable, -x, x))


def unpaired_contract(facts: Mapping[str, Any] | None = None, **options: Option) -> Contract:
    """Return the contract of a preference loss that is a mean over single rows, at least 0, with sums over tokens."""
    usual: dict[str, Any] = {
        "family": "preference",
        "level": "sequence",
        "normalizer": "global",
        "length_normalized": False,
        "lower_bound": 0.0,
    }
    return Contract(**{**usual, **(facts or {})}, options=options)


class UnpairedLoss(LossFunction):
    """L = mean over rows of ``kto``: lambda_D times the term of a desirable answer, lambda_U times that of another.

    Reads ``next_token_logprobs`` [B, S-1] (or ``logits`` [B, S, V] and ``input_ids``), ``reference_policy_logprobs``
    [B, S], ``token_mask`` [B, S], ``labels`` [B] (not 0: desirable); optional ``sample_mask`` [B], ``global_valid_seqs``.
    Only the policy receives gradient.

    Raises:
        KeyError: no ``labels``, or no reference policy.
        ValueError: shapes that do not belong together, a token id outside the vocabulary.
        ConfigError: a setting out of range or unknown.
    """

    beta = Setting(0.1, above=0.0)
    desirable_weight = Setting(1.0, least=0.0)
    undesirable_weight = Setting(1.0, least=0.0)

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        self.contract = refine(self.contract, upper_bound=max(self.desirable_weight, self.undesirable_weight))

    def reference_point(self, batch: Batch, h: Tensor, w: Tensor) -> Tensor | float:
        """Return z, what the log-ratios h [B] of rows of weight w [B] are measured from."""
        return 0.0

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        h, w = sequence_log_ratio(batch, model_outputs)
        desirable = row_constant(batch, "labels", h) != 0
        z = self.reference_point(batch, h, w)
        terms = kto(h, desirable, z, self.beta, self.desirable_weight, self.undesirable_weight)
        return mean_of_rows(terms, w, batch)


@register("apo_zero_unpaired")
class APOZeroUnpairedLoss(UnpairedLoss):
    """APO-zero of single answers: l = lambda_D (1 - sigma(r)) where desirable, lambda_U sigma(r) elsewhere, r = beta h.

    Inputs and errors as in ``UnpairedLoss``. Between 0 and the larger lambda, half of lambda at policy = reference; ``kto``
    with reference point 0. The gradient vanishes for large |r|: dl/dr = -+ lambda sigma(r) sigma(-r).

    Config: ``beta`` (0.1, above 0); ``desirable_weight`` lambda_D (1.0, at least 0); ``undesirable_weight`` lambda_U (1.0, at
    least 0).

    Terms: ``kto`` with a reference point of 0.

    Source: arXiv 2408.06266.
    """

    contract = unpaired_contract(beta=BETA, desirable_weight=WEIGHTS, undesirable_weight=WEIGHTS)
    beta = Setting(0.1, above=0.0)


@register("kto")
class KTOLoss(UnpairedLoss):
    """KTO: l = lambda_D (1 - sigma(beta (h - z))) where desirable, lambda_U (1 - sigma(beta (z - h))) elsewhere.

    z, the reference point, estimates KL(policy, reference) and is a constant: the scalar ``batch["kl_reference_point"]`` if
    there is one (Liger's ``kl``), else the mean, weighted by ``sample_mask``, of ``batch["mismatched_log_ratios"]`` [B], the
    log-ratios of answers under prompts they do not belong to (as TRL estimates it); at least 0 either way. That mean is one
    of the batch at hand: losses of microbatches add up only when z is given. Inputs and errors as in ``UnpairedLoss``.
    Between 0 and the larger lambda; half of lambda at policy = reference; ``apo_zero_unpaired`` for z = 0. The gradient is
    largest at h = z.

    Config: ``beta`` (0.1, above 0); ``desirable_weight`` lambda_D (1.0, at least 0); ``undesirable_weight`` lambda_U (1.0, at
    least 0).

    Raises:
        KeyError: also when the batch has neither ``kl_reference_point`` nor ``mismatched_log_ratios``.

    Source: arXiv 2402.01306.
    """

    contract = unpaired_contract(
        facts={
            "coupled": True,
            "fields": {
                "kl_reference_point": Field("scalar", ""),
                "mismatched_log_ratios": Field("values", "B"),
            },
        },
        beta=BETA,
        desirable_weight=WEIGHTS,
        undesirable_weight=WEIGHTS,
    )
    beta = Setting(0.1, above=0.0)

    def reference_point(self, batch: Batch, h: Tensor, w: Tensor) -> Tensor | float:
        z = global_count(batch, "kl_reference_point")
        if z is not None:
            return z.detach().to(h).clamp(min=0)
        if "mismatched_log_ratios" not in batch:
            raise KeyError("batch needs 'kl_reference_point' or 'mismatched_log_ratios'")
        ratios = keep_active(row_constant(batch, "mismatched_log_ratios", h), w)
        return mean_of_terms(ratios, w, None).clamp(min=0)
