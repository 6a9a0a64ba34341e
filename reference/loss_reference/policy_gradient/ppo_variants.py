"""PPO with other bounds of the ratio, or another divisor of the sum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from loss_reference.contract import Option
from loss_reference.interface import Batch
from loss_reference.policy_gradient.ppo_clip import ClippedPolicyLoss, PPOClipLoss, ppo_clip
from loss_reference.reduction import aggregate_tokens, mean_of_terms
from loss_reference.registry import register
from loss_reference.settings import ConfigError, Setting
from loss_reference.token_level import refine

__all__ = ["BNPOLoss", "DAPOLoss", "DrGRPOLoss", "PPODualClipLoss", "bnpo", "dapo", "dr_grpo", "two_sided_clip"]

DIVISORS: Final = ("sequences_times_length", "length")
# Inert in the sense of the checks: it speaks of empty batches alone, where nothing else is asked of a loss.
EMPTY_OPTION: Final = Option(values=("zero", "nan"), inert=True)


def two_sided_clip(
    rho: Tensor, A: Tensor, clip_min: float = 0.2, clip_max: float = 0.2, clip_c: float | None = 3.0
) -> Tensor:
    """Return max(-A min(rho, clip_c), -A clip(rho, 1 - clip_min, 1 + clip_max)), one term per token.

    It is ``ppo_clip`` with its ``clip_c`` where clip_c >= 1 + clip_max; a smaller one cuts off positive advantages too.

    Args:
        rho: probability ratio pi / pi_old, above 0.
        A: advantage, any shape that ``rho`` has.
        clip_min, clip_max: how far the ratio may fall below and rise above 1, at least 0.
        clip_c: bound of the ratio in the unclipped branch, above 1.
    """
    return torch.maximum(-A * rho.clamp(max=clip_c), -A * rho.clamp(1 - clip_min, 1 + clip_max))


def dapo(rho: Tensor, A: Tensor, clip_min: float = 0.2, clip_max: float = 0.28, clip_c: float | None = None) -> Tensor:
    """Return max(-A rho, -A clip(rho, 1 - clip_min, 1 + clip_max)), clip_max > clip_min, one term per token.

    Args:
        rho, A, clip_min, clip_max, clip_c: as in ``ppo_clip``, whose bounds are symmetric unless told otherwise.
    """
    return ppo_clip(rho, A, clip_min, clip_max, clip_c)


def dr_grpo(
    rho: Tensor, A: Tensor, max_length: float, clip_min: float = 0.2, clip_max: float = 0.2, clip_c: float | None = None
) -> Tensor:
    """Return max(-A rho, -A clip(rho, 1 - clip_min, 1 + clip_max)) / max_length, one term per token.

    The loss is their sum over tokens, the mean over answers: no answer is divided by its own length.

    Args:
        rho, A, clip_min, clip_max, clip_c: as in ``ppo_clip``.
        max_length: tokens of the longest answer that can be generated, above 0.
    """
    return ppo_clip(rho, A, clip_min, clip_max, clip_c) / max_length


def bnpo(
    rho: Tensor, A: Tensor, m: Tensor, clip_min: float = 0.2, clip_max: float = 0.2, clip_c: float | None = None
) -> Tensor:
    """Return m max(-A rho, -A clip(rho, 1 - clip_min, 1 + clip_max)) / sum m, one term per token; their sum is the loss.

    Args:
        rho, A, clip_min, clip_max, clip_c: as in ``ppo_clip``.
        m: weights of the tokens, of the shape of ``rho``, at least 0; where all are 0 so are the terms.
    """
    return m * ppo_clip(rho, A, clip_min, clip_max, clip_c) / m.sum().clamp(min=1.0)


@register("ppo_dual_clip")
class PPODualClipLoss(PPOClipLoss):
    """Dual-clip PPO: where A < 0 the term of ``PPOClipLoss`` is at most -A c, so that no ratio makes it explode.

    Inputs, shapes, range, gradient and errors as ``PPOClipLoss``; where -A c holds the gradient is 0. It differs from
    ``ppo_clip`` exactly where A < 0 and rho > c.

    Config: that of ``PPOClipLoss`` with ``ratio_clip_c`` c (3, above 1; verl's default, NeMo RL's DAPO recipes use 10);
    ``clip_c_bounds`` (``"negative_advantages"``; ``"ratio"``, the ``delta`` of TRL and Liger: c bounds rho in the
    unclipped branch whatever the sign of A, l = max(-A min(rho, c), -A clip(rho)). For c >= 1 + e_h that is the same,
    for a smaller c positive advantages are cut off at c too).

    Terms: ``ppo_clip`` with its ``clip_c``.

    Source: arXiv 1912.09729, eq. 8; ``"ratio"``: arXiv 2505.07291.
    """

    contract = refine(
        PPOClipLoss.contract,
        options={
            **PPOClipLoss.contract.options,
            "ratio_clip_c": Option(values=(1.1, 1.5, 3.0, 10.0)),
            "clip_c_bounds": Option(values=("negative_advantages", "ratio")),
        },
    )
    ratio_clip_c = Setting[float | None](3.0, above=1.0)
    clip_c_bounds = Setting("negative_advantages", choices=("negative_advantages", "ratio"))

    def policy_terms(self, lp: Tensor, m: Tensor, batch: Batch) -> Tensor:
        if self.clip_c_bounds == "negative_advantages":
            return super().policy_terms(lp, m, batch)
        rho, A = self.ratio_and_advantages(lp, m, batch)
        return two_sided_clip(rho, A, self.ratio_clip_min, self.ratio_clip_max, self.ratio_clip_c)


@register("dapo")
class DAPOLoss(PPOClipLoss):
    """DAPO: ``PPOClipLoss`` clipped higher (e_h > e_l), the mean over all tokens of the global batch, no KL penalty.

    Inputs, shapes, range, gradient and errors as ``PPOClipLoss``. Overlong answers are left out by ``sample_mask`` = 0.

    Config: that of ``PPOClipLoss`` with ``ratio_clip_max`` e_h (0.28).

    Source: arXiv 2503.14476, eq. 8.
    """

    contract = refine(
        PPOClipLoss.contract,
        options={**PPOClipLoss.contract.options, "ratio_clip_max": Option(values=(0.0, 0.28, 1.0))},
    )
    ratio_clip_max = Setting(0.28, least=0.0)

    def policy_terms(self, lp: Tensor, m: Tensor, batch: Batch) -> Tensor:
        rho, A = self.ratio_and_advantages(lp, m, batch)
        return dapo(rho, A, self.ratio_clip_min, self.ratio_clip_max, self.ratio_clip_c)


@register("dr_grpo")
class DrGRPOLoss(ClippedPolicyLoss):
    """Dr. GRPO: L = sum m l / (S_g max_length), l the clipped term of PPO: a long answer is not diluted by its length.

    Inputs, shapes, range and errors as ``PPOClipLoss``; ``advantages`` are r - mean over the group
    (``dr_grpo_advantages``). dL/dlp = -A rho m / (S_g max_length), 0 where clipped.

    Config: ``max_length`` (required, above 0: the longest answer that can be generated); ``divisor``
    (``"sequences_times_length"``, TRL and Liger with their ``max_completion_length``; ``"length"``, L = sum m l /
    max_length, S_g times larger: ``seq-mean-token-sum-norm`` of verl in releases that have no ``global_batch_size``, whose
    default length is the padded width); ``ratio_clip_min``, ``ratio_clip_max`` (0.2, at least 0), ``ratio_clip_c`` (None;
    above 1), ``log_ratio_clamp`` (None; above 0).

    Raises:
        ValueError: shapes that do not belong together, a token id outside the vocabulary.
        ConfigError: no ``max_length``, a setting out of range or unknown.

    Source: arXiv 2503.20783, section 3.2.
    """

    contract = refine(
        ClippedPolicyLoss.contract,
        level="sequence",
        length_normalized=False,
        options={
            **ClippedPolicyLoss.contract.options,
            "max_length": Option(values=(4.0, 16.0)),
            "divisor": Option(values=DIVISORS),
        },
    )
    max_length = Setting[float | None](None, above=0.0, optional=True)
    divisor = Setting("sequences_times_length", choices=DIVISORS)

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        if self.max_length is None:
            raise ConfigError(f"{type(self).__name__} needs max_length, the number it divides by")
        if self.divisor == "length":
            self.contract = refine(self.contract, normalizer="sum")

    def policy_terms(self, lp: Tensor, m: Tensor, batch: Batch) -> Tensor:
        assert self.max_length is not None
        rho, A = self.ratio_and_advantages(lp, m, batch)
        return dr_grpo(rho, A, self.max_length, self.ratio_clip_min, self.ratio_clip_max, self.ratio_clip_c)

    def reduce(self, terms: Tensor, weights: Tensor, batch: Batch) -> Tensor:
        if self.divisor == "length":
            return mean_of_terms(terms, weights, terms.new_tensor(1.0))
        return aggregate_tokens(terms, weights, batch, "seq_mean_token_sum")


@register("bnpo")
class BNPOLoss(ClippedPolicyLoss):
    """BNPO: L = sum m l / sum m, both over *this* batch, l the clipped term of PPO.

    Inputs, shapes, range and errors as ``PPOClipLoss``; ``global_valid_toks`` and ``global_valid_seqs`` are not read, so
    the losses of microbatches do not add up to that of the whole. dL/dlp = -A rho m / sum m, 0 where clipped. With one
    sequence it is ``grpo`` without penalty.

    Config: ``ratio_clip_min``, ``ratio_clip_max`` (0.2, at least 0), ``ratio_clip_c`` (None; above 1),
    ``log_ratio_clamp`` (None; above 0); ``empty``, the loss of a batch in which nothing is trained (``"zero"``: TRL,
    Liger, torchtune; ``"nan"``: verl ``token-mean`` without a global count, OpenRLHF, TRL's PPO trainer).

    Source: TRL ``loss_type="bnpo"``.
    """

    contract = refine(
        ClippedPolicyLoss.contract,
        normalizer="local",
        options={**ClippedPolicyLoss.contract.options, "empty": EMPTY_OPTION},
    )
    empty = Setting("zero", choices=EMPTY_OPTION.values)

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        if self.empty == "nan":
            self.contract = refine(self.contract, empty="nan")

    def policy_terms(self, lp: Tensor, m: Tensor, batch: Batch) -> Tensor:
        rho, A = self.ratio_and_advantages(lp, m, batch)
        return bnpo(rho, A, m, self.ratio_clip_min, self.ratio_clip_max, self.ratio_clip_c)

    def reduce(self, terms: Tensor, weights: Tensor, batch: Batch) -> Tensor:
        total = terms.sum()
        return total if self.empty == "zero" else total / (weights != 0).any()
