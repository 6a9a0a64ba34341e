"""PPO on tokens that another policy generated: the clipped term times a weight, bounded per token or per answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

import torch
from torch import Tensor

from loss_reference.contract import Contract, Option
from loss_reference.interface import Batch
from loss_reference.logprobs import token_constant
from loss_reference.policy_gradient.correction import (
    DIVERGENCE_LEVELS,
    DIVERGENCES,
    divergence_kept,
    icepop_weight,
    mean_one,
    off_policy_kept,
    seq_mask_tis_weight,
    seq_mask_weight,
    seq_truncate_weight,
    tis_weight,
)
from loss_reference.policy_gradient.ppo_clip import PPOClipLoss, ppo_clip
from loss_reference.policy_gradient.ratio import MAX_LOG_RATIO, mean_over_tokens, ratio_of
from loss_reference.reduction import row_weights
from loss_reference.registry import register
from loss_reference.relevance import where
from loss_reference.settings import ConfigError, Setting
from loss_reference.token_level import refine

__all__ = [
    "CorrectedPolicyLoss",
    "DivergenceMaskLoss",
    "IcePopLoss",
    "ImportanceWeightedLoss",
    "OffPolicyMaskLoss",
    "SequenceMaskLoss",
    "SequenceMaskTISLoss",
    "SequenceTruncateLoss",
    "TISLoss",
]

RATIO_LEVELS: Final = ("token", "sequence")
OVERFLOWS: Final = ("saturate", "zero")


class CorrectedPolicyLoss(PPOClipLoss):
    """L = aggregate of W max(-A rho, -A clip(rho, 1 - e_l, 1 + e_h)), W a constant made of x = lp_old - lp_gen.

    Reads what ``PPOClipLoss`` reads and ``generation_logprobs`` [B, S], those of the policy that drew the tokens. Any real
    result. Only the policy receives gradient, W times that of ``PPOClipLoss``. Where lp_gen = lp_old, W is 1 and it is
    ``ppo_clip``. Tokens and rows that W leaves out still count in the divisor. W belongs to the policy term alone, never
    to a KL penalty. W rho saturates at e^70 (``MAX_LOG_RATIO``).

    Config: that of ``PPOClipLoss`` and ``ratio_level`` (``"token"``; ``"sequence"``: rho is that of ``GSPOLoss``, one
    geometric mean per row; NeMo RL ``sequence_level_importance_ratios``, TRL ``importance_sampling_level``).

    Raises:
        ValueError: shapes that do not belong together, a token id outside the vocabulary.
        ConfigError: a setting out of range or unknown, bounds that cross, ``"fixed"`` without ``max_length``.
    """

    contract = refine(
        PPOClipLoss.contract,
        options={**PPOClipLoss.contract.options, "ratio_level": Option(values=RATIO_LEVELS)},
    )
    ratio_level = Setting("token", choices=RATIO_LEVELS)
    weight_sums_row: ClassVar[bool] = False

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        if self.weight_sums_row:  # whatever the aggregation says of the terms
            self.contract = refine(self.contract, length_normalized=False)

    def policy_terms(self, lp: Tensor, m: Tensor, batch: Batch) -> Tensor:
        A, u = token_constant(batch, "advantages", m), self.log_ratio(lp, m, batch)
        room = (MAX_LOG_RATIO - u.detach().clamp(0.0, MAX_LOG_RATIO)).exp()
        W = torch.minimum(self.weight(lp, m, batch).detach(), room)
        return W * ppo_clip(ratio_of(u), A, self.ratio_clip_min, self.ratio_clip_max, self.ratio_clip_c)

    def log_ratio(self, lp: Tensor, m: Tensor, batch: Batch) -> Tensor:
        """Return log rho: per token [B, S-1], or its mean over the row [B, 1]."""
        delta = lp - token_constant(batch, "prev_logprobs", m)
        u = delta if self.ratio_level == "token" else mean_over_tokens(delta, m)
        return u if self.log_ratio_clamp is None else u.clamp(-self.log_ratio_clamp, self.log_ratio_clamp)

    def weight(self, lp: Tensor, m: Tensor, batch: Batch) -> Tensor:
        """Return W, [B, S-1] or [B, 1]."""
        raise NotImplementedError(f"{type(self).__name__} must define weight(self, lp, m, batch)")


def generation_log_ratio(m: Tensor, batch: Batch) -> Tensor:
    """Return x = lp_old - lp_gen [B, S-1], 0 where m is."""
    return token_constant(batch, "prev_logprobs", m) - token_constant(batch, "generation_logprobs", m)


def corrected(**options: Option) -> Contract:
    """Return the contract of a corrected loss with further options."""
    return refine(CorrectedPolicyLoss.contract, options={**CorrectedPolicyLoss.contract.options, **options})


def require_order(loss: object, low: tuple[str, float], high: tuple[str, float]) -> None:
    """Refuse a lower bound above the upper one.

    Raises:
        ConfigError: quotes both.
    """
    if low[1] > high[1]:
        raise ConfigError(f"{type(loss).__name__}: {low[0]}={low[1]!r} is above {high[0]}={high[1]!r}")


class ImportanceWeightedLoss(CorrectedPolicyLoss):
    """A corrected loss whose W is an importance weight; with ``batch_normalize`` it is divided by its mean over the batch.

    Formula, inputs, errors and gradient as ``CorrectedPolicyLoss``. The mean is taken after W is bounded or cut off: over
    tokens with their weights m, or over the rows that have tokens, with their ``sample_mask``, where W is one number per
    row. It is that of *this* batch, so the losses of microbatches do not add up. A mean of 1e-8 or less divides nothing.

    Config: that of ``CorrectedPolicyLoss``; ``batch_normalize`` (False; True: verl ``rollout_is_batch_normalize``, which
    takes the mean over all ranks).

    Raises:
        ValueError: shapes that do not belong together, a token id outside the vocabulary.
        ConfigError: a setting out of range or unknown, bounds that cross, ``"fixed"`` without ``max_length``.
    """

    contract = corrected(batch_normalize=Option(values=(False, True)))
    batch_normalize = Setting(False)

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        if self.batch_normalize:
            self.contract = refine(self.contract, coupled=True)

    def weight(self, lp: Tensor, m: Tensor, batch: Batch) -> Tensor:
        W = self.importance_weight(m, batch)
        if not self.batch_normalize:
            return W
        rows = (row_weights(batch, m) * (m != 0).any(dim=1)).unsqueeze(1)
        return mean_one(W, rows if self.weight_sums_row else m)

    def importance_weight(self, m: Tensor, batch: Batch) -> Tensor:
        """Return W before it is normalised, [B, S-1] or [B, 1]."""
        raise NotImplementedError(f"{type(self).__name__} must define importance_weight(self, m, batch)")


def weighted(**options: Option) -> Contract:
    """Return the contract of an importance-weighted loss with further options."""
    return refine(ImportanceWeightedLoss.contract, options={**ImportanceWeightedLoss.contract.options, **options})


class _BoundedLoss(ImportanceWeightedLoss):
    """A weight with a lower and an upper bound."""

    is_min = Setting(0.0, least=0.0)
    is_max = Setting(2.0, above=0.0)

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        require_order(self, ("is_min", self.is_min), ("is_max", self.is_max))


@register("tis")
class TISLoss(_BoundedLoss):
    """Truncated importance sampling: W = clip(e^x, is_min, is_max) per token.

    Formula, inputs, errors and gradient as ``ImportanceWeightedLoss``.

    Config: that of ``ImportanceWeightedLoss``; ``is_min`` (0, at least 0) and ``is_max`` (2, above 0): NeMo RL 0 and no
    default above, OpenRLHF 0.5 and 5, Open-Instruct 0 and 2, TRL ``token_truncate`` 0 and 3; ``overflow``
    (``"saturate"``: a huge e^x is is_max; ``"zero"``, NeMo RL: one that float32 cannot hold is 0 before it is clipped, and
    so is that of a token impossible for both policies, inf - inf).

    Terms: ``tis_weight`` times ``ppo_clip``.

    Source: arXiv 1606.02647 (truncated weights); F. Yao et al., "Your efficient RL framework secretly brings you
    off-policy RL training" (2025).
    """

    contract = weighted(
        is_min=Option(values=(0.0, 0.9)),
        is_max=Option(values=(1.05, 2.0, 5.0)),
        # Inert in the sense of the checks: it acts from 88 nats between the two policies on.
        overflow=Option(values=OVERFLOWS, inert=True),
    )
    overflow = Setting("saturate", choices=OVERFLOWS)

    def importance_weight(self, m: Tensor, batch: Batch) -> Tensor:
        return tis_weight(generation_log_ratio(m, batch), self.is_min, self.is_max, self.overflow)


@register("icepop", "token_mask")
class IcePopLoss(_BoundedLoss):
    """IcePop: W = e^x where is_min <= e^x <= is_max and 0 elsewhere, per token.

    Formula, inputs, errors and gradient as ``ImportanceWeightedLoss``.

    Config: that of ``ImportanceWeightedLoss``; ``is_min`` (0.5, at least 0) and ``is_max`` (2, above 0; NeMo RL
    suggests 5).

    Terms: ``icepop_weight`` times ``ppo_clip``.

    Source: arXiv 2510.18855; NeMo RL ``icepop``; TRL ``token_mask``.
    """

    contract = weighted(is_min=Option(values=(0.0, 0.5, 0.95)), is_max=Option(values=(1.05, 2.0, 5.0)))
    is_min = Setting(0.5, least=0.0)

    def importance_weight(self, m: Tensor, batch: Batch) -> Tensor:
        return icepop_weight(generation_log_ratio(m, batch), self.is_min, self.is_max)


@register("seq_truncate")
class SequenceTruncateLoss(ImportanceWeightedLoss):
    """Truncated importance sampling of whole answers: W_b = min(exp(sum_t x), is_max).

    Formula, inputs, errors and gradient as ``ImportanceWeightedLoss``. ``sample_mask`` does not enter the sum. With
    ``ratio_level="sequence"``, ``aggregation="seq_mean_token_mean"`` and a huge is_max it is NeMo RL's GSPO with its
    importance-sampling correction on.

    Config: that of ``ImportanceWeightedLoss``; ``is_max`` (3, above 0).

    Terms: ``seq_truncate_weight`` times ``ppo_clip``.

    Source: TRL ``sequence_truncate``.
    """

    contract = weighted(is_max=Option(values=(1.05, 3.0, 1e9)))
    weight_sums_row = True
    is_max = Setting(3.0, above=0.0)

    def importance_weight(self, m: Tensor, batch: Batch) -> Tensor:
        return seq_truncate_weight(generation_log_ratio(m, batch), self.is_max)


@register("seq_mask")
class SequenceMaskLoss(_BoundedLoss):
    """Masked importance sampling of whole answers: W_b = exp(sum_t x) within [is_min, is_max], 0 elsewhere.

    Formula, inputs, errors and gradient as ``ImportanceWeightedLoss``. ``sample_mask`` does not enter the sum.

    Config: that of ``ImportanceWeightedLoss``; ``is_min`` (0, at least 0) and ``is_max`` (3, above 0).

    Terms: ``seq_mask_weight`` times ``ppo_clip``.

    Source: TRL ``sequence_mask``, its default.
    """

    contract = weighted(is_min=Option(values=(0.0, 0.9)), is_max=Option(values=(1.05, 3.0, 1e9)))
    weight_sums_row = True
    is_max = Setting(3.0, above=0.0)

    def importance_weight(self, m: Tensor, batch: Batch) -> Tensor:
        return seq_mask_weight(generation_log_ratio(m, batch), self.is_min, self.is_max)


@register("seq_mask_tis")
class SequenceMaskTISLoss(_BoundedLoss):
    """Masked answers, weighted tokens: W = e^x per token, unbounded, in rows with is_min <= exp(mean_t x) <= is_max, else 0.

    Formula, inputs, errors and gradient as ``ImportanceWeightedLoss``.

    Config: that of ``ImportanceWeightedLoss``; ``is_min`` (0.5, at least 0) and ``is_max`` (2, above 0). NeMo RL suggests
    0.999 and 1.002.

    Terms: ``seq_mask_tis_weight`` times ``ppo_clip``.

    Source: NeMo RL ``seq-mask-tis``; OpenRLHF.
    """

    contract = weighted(is_min=Option(values=(0.0, 0.5, 0.99)), is_max=Option(values=(1.01, 2.0, 5.0)))
    is_min = Setting(0.5, least=0.0)

    def importance_weight(self, m: Tensor, batch: Batch) -> Tensor:
        return seq_mask_tis_weight(generation_log_ratio(m, batch), m, self.is_min, self.is_max)


@register("off_policy_mask")
class OffPolicyMaskLoss(CorrectedPolicyLoss):
    """Off-policy sequence masking: W = 0 at tokens with A < 0 of rows with mean_t (lp_gen - sg lp) > threshold, else 1.

    Formula, inputs, errors and gradient as ``CorrectedPolicyLoss``; W compares the generating policy with the *trained*
    one and is constant. What an answer did well is always learnt; what it did badly only while the policy could still
    have written it.

    Config: that of ``CorrectedPolicyLoss``; ``threshold`` (0.1, at least 0, nats per token).

    Terms: ``off_policy_kept`` times ``ppo_clip``.

    Source: arXiv 2512.02556; TRL ``off_policy_mask_threshold``; Open-Instruct.
    """

    contract = corrected(threshold=Option(values=(0.0, 0.1, 10.0)))
    threshold = Setting(0.1, least=0.0)

    def weight(self, lp: Tensor, m: Tensor, batch: Batch) -> Tensor:
        drift = token_constant(batch, "generation_logprobs", m) - lp.detach()
        return off_policy_kept(drift, token_constant(batch, "advantages", m), m, self.threshold)


@register("divergence_mask")
class DivergenceMaskLoss(CorrectedPolicyLoss):
    """Rejection by divergence: W = 1 where old and generating policy are close, 0 elsewhere, per token or per answer.

    Formula, inputs, errors and gradient as ``CorrectedPolicyLoss``; what is close, ``divergence_kept``. verl takes
    what is rejected out of its mask: without a global count its divisor is the number of tokens kept.

    Config: that of ``CorrectedPolicyLoss``; ``estimator`` (``"k1"``: bounds of the ratio itself; ``"k2"``, ``"k3"``: an
    upper bound of the divergence in nats); ``level`` (``"token"``, ``"seq_mean"``, ``"seq_sum"``; ``"seq_max"``, not with
    k1); ``upper`` (2, above 0); ``lower`` (None, which is 1 / upper; above 0, with k1 alone and at most ``upper``).

    Terms: ``divergence_kept`` times ``ppo_clip``.

    Source: verl ``rollout_rs``.
    """

    contract = corrected(
        estimator=Option(values=DIVERGENCES),
        level=Option(values=("token", "seq_mean", "seq_sum")),  # seq_max is not legal beside the other defaults
        upper=Option(values=(0.005, 1.05, 2.0)),
        lower=Option(values=(None, 0.9, 0.99)),
    )
    estimator = Setting("k1", choices=DIVERGENCES)
    level = Setting("token", choices=DIVERGENCE_LEVELS)
    upper = Setting(2.0, above=0.0)
    lower = Setting[float | None](None, above=0.0, optional=True, read_when=where("estimator", "k1"))

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        name = type(self).__name__
        if self.estimator == "k1" and self.level == "seq_max":
            raise ConfigError(
                f"{name}: level='seq_max' needs estimator='k2' or 'k3'; the largest k1 bounds one side only"
            )
        self.lowest = 1 / self.upper if self.lower is None else self.lower
        if self.estimator == "k1":
            require_order(self, ("lower", self.lowest), ("upper", self.upper))
        if self.level == "seq_sum":
            self.contract = refine(self.contract, length_normalized=False)

    def weight(self, lp: Tensor, m: Tensor, batch: Batch) -> Tensor:
        x = generation_log_ratio(m, batch)
        return divergence_kept(x, m, self.estimator, self.level, self.upper, self.lowest)
