"""PPO with other bounds of the ratio, or another divisor of the sum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from loss_reference.contract import Option
from loss_reference.interface import Batch
from loss_reference.policy_gradient.ppo_clip import ClippedPolicyLoss, PPOClipLoss
from loss_reference.reduction import aggregate_tokens, mean_of_terms
from loss_reference.registry import register
from loss_reference.settings import ConfigError, Setting
from loss_reference.token_level import refine

__all__ = ["BNPOLoss", "DAPOLoss", "DrGRPOLoss", "PPODualClipLoss"]


@register("ppo_dual_clip")
class PPODualClipLoss(PPOClipLoss):
    """Dual-clip PPO: where A < 0 the term of ``PPOClipLoss`` is at most -A c, so that no ratio makes it explode.

    Inputs, shapes, range, gradient and errors as ``PPOClipLoss``; where -A c holds the gradient is 0. It differs from
    ``ppo_clip`` exactly where A < 0 and rho > c. TRL's and Liger's ``delta``, which bounds rho itself, is the same for
    delta = c >= 1 + e_h.

    Config: that of ``PPOClipLoss`` with ``ratio_clip_c`` c (3, above 1; verl's default, NeMo RL's DAPO recipes use 10).

    Source: arXiv 1912.09729, eq. 8.
    """

    contract = refine(
        PPOClipLoss.contract, options={**PPOClipLoss.contract.options, "ratio_clip_c": Option(values=(1.5, 3.0, 10.0))}
    )
    ratio_clip_c = Setting[float | None](3.0, above=1.0)


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


@register("dr_grpo")
class DrGRPOLoss(ClippedPolicyLoss):
    """Dr. GRPO: L = sum m l / (S_g max_length), l the clipped term of PPO: a long answer is not diluted by its length.

    Inputs, shapes, range and errors as ``PPOClipLoss``; ``advantages`` are r - mean over the group
    (``dr_grpo_advantages``). dL/dlp = -A rho m / (S_g max_length), 0 where clipped. TRL and Liger divide likewise by
    B * max_completion_length; verl's ``seq-mean-token-sum-norm`` by the length alone, which is B times larger.

    Config: ``max_length`` (required, above 0: the longest answer that can be generated); ``ratio_clip_min``,
    ``ratio_clip_max`` (0.2, at least 0), ``ratio_clip_c`` (None; above 1).

    Raises:
        ValueError: shapes that do not belong together, a token id outside the vocabulary.
        ConfigError: no ``max_length``, a setting out of range or unknown.

    Source: arXiv 2503.20783, section 3.2.
    """

    contract = refine(
        ClippedPolicyLoss.contract,
        level="sequence",
        length_normalized=False,
        options={**ClippedPolicyLoss.contract.options, "max_length": Option(values=(4.0, 16.0))},
    )
    max_length = Setting[float | None](None, above=0.0, optional=True)

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        if self.max_length is None:
            raise ConfigError(f"{type(self).__name__} needs max_length, the number it divides by")

    def reduce(self, terms: Tensor, weights: Tensor, batch: Batch) -> Tensor:
        return aggregate_tokens(terms, weights, batch, "fixed", self.max_length)


@register("bnpo")
class BNPOLoss(ClippedPolicyLoss):
    """BNPO: L = sum m l / sum m, both over *this* batch, l the clipped term of PPO.

    Inputs, shapes, range and errors as ``PPOClipLoss``; ``global_valid_toks`` and ``global_valid_seqs`` are not read, so
    the losses of microbatches do not add up to that of the whole. dL/dlp = -A rho m / sum m, 0 where clipped. With one
    sequence it is ``grpo`` without penalty.

    Config: ``ratio_clip_min``, ``ratio_clip_max`` (0.2, at least 0), ``ratio_clip_c`` (None; above 1).

    Source: TRL ``loss_type="bnpo"``.
    """

    contract = refine(ClippedPolicyLoss.contract, normalizer="local")
    strict_config = True

    def reduce(self, terms: Tensor, weights: Tensor, batch: Batch) -> Tensor:
        return mean_of_terms(terms, weights, count=None)
