"""Losses that hold back the few tokens whose probability and advantage vary together: they drive the entropy down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from loss_reference.contract import Field, Option
from loss_reference.interface import Batch
from loss_reference.logprobs import token_constant
from loss_reference.policy_gradient.policy import POLICY_GRADIENT, PolicyLoss
from loss_reference.policy_gradient.ppo_clip import ppo_clip
from loss_reference.policy_gradient.ratio import probability_ratio
from loss_reference.reduction import aggregate_tokens
from loss_reference.registry import register
from loss_reference.relevance import unless
from loss_reference.settings import ConfigError, Setting
from loss_reference.token_level import refine

__all__ = ["ClipCovLoss", "KLCovLoss", "clip_cov", "first_of", "kl_cov", "largest_of", "token_covariance"]


def token_covariance(lp: Tensor, A: Tensor, trained: Tensor) -> Tensor:
    """Return the constant (A - mean A) (lp - mean lp) of every token [B, S-1]; means over ``trained`` tokens, unweighted."""
    n = trained.sum().clamp(min=1)
    lp = lp.detach()
    return (A - torch.where(trained, A, 0.0).sum() / n) * (lp - torch.where(trained, lp, 0.0).sum() / n)


def first_of(key: Tensor, candidates: Tensor, trained: Tensor, share: float) -> Tensor:
    """Return which of ``candidates`` are the k of smallest ``key``, k = max(1, ceil(share T)), T ``trained`` tokens.

    All are bool or float tensors [B, S-1]. Of equal keys the earlier token comes first. There may be fewer candidates.
    """
    order = key.masked_fill(~candidates, float("inf")).flatten().argsort(stable=True)
    rank = torch.empty_like(order).scatter(0, order, torch.arange(order.numel(), device=order.device))
    return candidates & (rank < _how_many(trained, share)).reshape(key.shape)


def largest_of(key: Tensor, trained: Tensor, share: float) -> Tensor:
    """Return which ``trained`` tokens have a ``key`` of at least the k-th largest, up to rounding, k as in ``first_of``.

    Tokens of one key are taken or left together, wherever they stand: two tokens alone always have the same covariance.
    """
    ordered = key.masked_fill(~trained, -float("inf")).flatten().sort(descending=True).values
    if not len(ordered):
        return trained
    last = ordered.gather(0, (_how_many(trained, share).long() - 1).clamp(max=len(ordered) - 1).reshape(1))
    rounding = 8 * torch.finfo(key.dtype).eps * torch.where(trained, key, 0.0).abs().amax()
    return trained & (key >= last - rounding)


def _how_many(trained: Tensor, share: float) -> Tensor:
    # In float64 whatever the loss is computed in: 0.3 * 100 is more than 30 in float32.
    return (share * trained.sum().to(torch.float64)).ceil().clamp(min=1)


def clip_cov(
    rho: Tensor,
    A: Tensor,
    cov: Tensor,
    trained: Tensor,
    noise: Tensor,
    share: float = 2e-4,
    bounds: tuple[float, float] = (1.0, 5.0),
    clip_min: float = 0.2,
    clip_max: float = 0.2,
) -> Tensor:
    """Return the term of ``ppo_clip`` of every token, 0 at the candidates of smallest ``noise`` (``first_of``).

    Candidates are the trained tokens with bounds[0] < cov < bounds[1] that ``ppo_clip`` does not clip.

    Args:
        rho: probability ratio pi / pi_old [B, S-1], above 0.
        A: advantages [B, S-1].
        cov: ``token_covariance`` [B, S-1], constant.
        trained: bool [B, S-1].
        noise: numbers [B, S-1] that say which candidates go first.
        share: how many of the trained tokens are left out, from 0 to 1; at least one token.
        bounds: of the covariance, in nats times units of the advantage.
        clip_min, clip_max: how far the ratio may fall below and rise above 1, at least 0.
    """
    clipped = -A * rho.clamp(1 - clip_min, 1 + clip_max) > -A * rho
    candidates = trained & ~clipped & (cov > bounds[0]) & (cov < bounds[1])
    left_out = first_of(noise, candidates, trained, share)
    return ppo_clip(rho, A, clip_min, clip_max).masked_fill(left_out, 0.0)


def kl_cov(lp: Tensor, lp_old: Tensor, A: Tensor, top: Tensor, c: float = 1.0) -> Tensor:
    """Return -A exp(lp - lp_old), and c |lp - lp_old| more at the tokens of ``top``, one term per token.

    Args:
        lp, lp_old: log-probabilities under the policy and the old policy [B, S-1], in nats; the latter constant.
        A: advantages [B, S-1].
        top: bool [B, S-1], the tokens of largest covariance (``largest_of``).
        c: coefficient of the penalty, at least 0.
    """
    return -A * probability_ratio(lp, lp_old) + c * torch.where(top, (lp - lp_old).abs(), 0.0)


class _CovarianceLoss(PolicyLoss):
    """What both share: ``prev_logprobs`` and ``advantages``, and the mean over the tokens of the global batch."""

    contract = refine(POLICY_GRADIENT, coupled=True, length_normalized=False)  # k is a whole number

    def reduce(self, terms: Tensor, weights: Tensor, batch: Batch) -> Tensor:
        return aggregate_tokens(terms, weights, batch, "token_mean")


@register("clip_cov")
class ClipCovLoss(_CovarianceLoss):
    """Clip-Cov: ``ppo_clip`` with a few random tokens left out, of those with lb < cov < ub that it does not clip.

    L = sum m c l / T_g, l the term of ``ppo_clip``, c = 0 at k = max(1, ceil(ratio T)) of the candidates (at all of them
    if there are fewer) and 1 elsewhere. cov = (A - mean A) (lp - mean lp), constant; the means, unweighted, and T are over
    the trained tokens of *this* batch, so that no two batches add up.

    Reads ``next_token_logprobs`` [B, S-1] (or ``logits`` [B, S, V] and ``input_ids`` [B, S]), ``prev_logprobs``,
    ``advantages`` and ``token_mask``, all [B, S]; optional ``sample_mask`` [B], ``global_valid_toks``,
    ``selection_noise`` [B, S]: the candidates of smallest noise are left out. Without it the noise is drawn, uniformly,
    from ``self.generator`` (a ``torch.Generator`` on the device of the policy, or None: that of torch). Any real result.
    Only the policy receives gradient: that of ``ppo_clip``, and 0 at a token left out.

    Config: ``ratio_clip_min``, ``ratio_clip_max`` (0.2, at least 0); ``clip_cov_ratio`` (2e-4, 0 to 1; at 0 one token is
    left out all the same); ``clip_cov_lb`` (1) and ``clip_cov_ub`` (5), lb at most ub. verl rounds ratio T down.

    Raises:
        ValueError: shapes that do not belong together, a token id outside the vocabulary.
        ConfigError: a setting out of range or unknown, lb above ub.

    Source: arXiv 2505.22617; verl ``clip_cov``.
    """

    contract = refine(
        _CovarianceLoss.contract,
        stochastic=True,
        fields={"selection_noise": Field("values", "B S")},
        options={
            "ratio_clip_min": Option(values=(0.0, 0.2, 1.0)),
            "ratio_clip_max": Option(values=(0.0, 0.2, 1.0)),
            "clip_cov_ratio": Option(values=(0.0, 2e-4, 0.5)),
            "clip_cov_lb": Option(values=(-5.0, 0.0, 1.0)),
            "clip_cov_ub": Option(values=(1.0, 5.0, 50.0)),
        },
    )
    ratio_clip_min = Setting(0.2, least=0.0)
    ratio_clip_max = Setting(0.2, least=0.0)
    clip_cov_ratio = Setting(2e-4, least=0.0, most=1.0)
    clip_cov_lb = Setting(1.0)
    clip_cov_ub = Setting(5.0)
    generator: torch.Generator | None = None

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        if self.clip_cov_lb > self.clip_cov_ub:
            raise ConfigError(
                f"{type(self).__name__}: clip_cov_lb={self.clip_cov_lb!r} is above clip_cov_ub={self.clip_cov_ub!r}"
            )

    def policy_terms(self, lp: Tensor, m: Tensor, batch: Batch) -> Tensor:
        lp_old, A, trained = token_constant(batch, "prev_logprobs", m), token_constant(batch, "advantages", m), m != 0
        rho, cov, noise = probability_ratio(lp, lp_old), token_covariance(lp, A, trained), self._noise(m, batch)
        share, bounds = self.clip_cov_ratio, (self.clip_cov_lb, self.clip_cov_ub)
        return clip_cov(rho, A, cov, trained, noise, share, bounds, self.ratio_clip_min, self.ratio_clip_max)

    def _noise(self, m: Tensor, batch: Batch) -> Tensor:
        if "selection_noise" in batch:
            return token_constant(batch, "selection_noise", m)
        return torch.rand(m.shape, generator=self.generator, dtype=m.dtype, device=m.device)


@register("kl_cov")
class KLCovLoss(_CovarianceLoss):
    """KL-Cov: L = sum m (-A rho + c |lp - lp_old| at the top tokens by covariance) / T_g, without any clip.

    The top are the k = max(1, ceil(ratio T)) trained tokens of largest cov = (A - mean A) (lp - mean lp), and all that
    equal the last of them; cov is constant, the means, unweighted, and T are over the trained tokens of *this* batch, so
    that no two batches add up.

    Reads ``next_token_logprobs`` [B, S-1] (or ``logits`` [B, S, V] and ``input_ids`` [B, S]), ``prev_logprobs``,
    ``advantages`` and ``token_mask``, all [B, S]; optional ``sample_mask`` [B], ``global_valid_toks``. Any real result.
    Only the policy receives gradient: -A rho, and c sign(lp - lp_old) more at the top tokens, 0 at lp = lp_old.
    lp - lp_old saturates at 70 nats (``MAX_LOG_RATIO``) in rho.

    Config: ``kl_cov_ratio`` (2e-4, 0 to 1; at 0 one token is penalised all the same), ``ppo_kl_coef`` c (1, at least 0;
    verl's configuration has 0.1). verl rounds ratio T down.

    Raises:
        ValueError: shapes that do not belong together, a token id outside the vocabulary.
        ConfigError: a setting out of range or unknown.

    Source: arXiv 2505.22617; verl ``kl_cov``.
    """

    contract = refine(
        _CovarianceLoss.contract,
        direction={"ppo_kl_coef": +1},
        options={
            "kl_cov_ratio": Option(values=(0.0, 2e-4, 0.5)),
            "ppo_kl_coef": Option(values=(0.0, 0.1, 1.0)),
        },
    )
    kl_cov_ratio = Setting(2e-4, least=0.0, most=1.0, read_when=unless("ppo_kl_coef", 0))
    ppo_kl_coef = Setting(1.0, least=0.0)

    def policy_terms(self, lp: Tensor, m: Tensor, batch: Batch) -> Tensor:
        lp_old, A = token_constant(batch, "prev_logprobs", m), token_constant(batch, "advantages", m)
        trained = m != 0
        top = largest_of(token_covariance(lp, A, trained), trained, self.kl_cov_ratio)
        return kl_cov(lp, lp_old, A, top, self.ppo_kl_coef)
