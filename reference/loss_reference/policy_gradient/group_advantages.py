"""More advantages from one reward per answer [B] and the group of each answer; conventions as in ``advantages``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from loss_reference.policy_gradient.advantages import (
    Singleton,
    dr_grpo_advantages,
    grpo_advantages,
    same_group,
    std_of_members,
    widened,
)
from loss_reference.shapes import require_shape

__all__ = ["batch_scaled_advantages", "gdpo_advantages", "gpg_advantages", "grpo_passk_advantages"]


def batch_scaled_advantages(r: Tensor, groups: Tensor, eps: float = 1e-4) -> Tensor:
    """Return A_i = (r_i - mean of its group) / (std of all rewards of the batch + eps), [B].

    A group is not blown up because its answers happen to agree. Laws and errors as ``grpo_advantages``.

    Source: TRL ``scale_rewards="batch"``.
    """
    return grpo_advantages(r, groups, scale="batch", eps=eps)


def gpg_advantages(r: Tensor, groups: Tensor, f_norm: float = 1.0, singleton: Singleton = "zero") -> Tensor:
    """Return A_i = alpha (r_i - mean of its group) / f_norm, alpha = B / #{nonzero rewards}, [B].

    alpha makes up for the answers that earned nothing; it is B where all did. The sum over a group is 0, multiplying all
    rewards multiplies A; adding a number to all of them changes alpha where rewards were 0.

    Args:
        r, groups, singleton: as in ``grpo_advantages``.
        f_norm: divisor, not 0.

    Source: arXiv 2504.02546; verl ``gpg``.
    """
    alpha = len(r) / (r != 0).sum().clamp(min=1).to(widened(r))
    return alpha * dr_grpo_advantages(r, groups, singleton) / f_norm


def grpo_passk_advantages(r: Tensor, groups: Tensor, scale: bool = True, eps: float = 1e-6) -> Tensor:
    """Return (r_1 - r_2) / (std + eps) for the best answer of a group, r_1 and r_2 its two largest rewards, 0 for the others.

    Only the best of k answers counts, so only it is credited, with what it adds. 0 throughout where the two are equal, and
    for an answer alone in its group (verl refuses one). ``scale=False`` leaves out the std, the unbiased one of the group.
    Adding a number to all rewards changes nothing.

    Raises:
        ValueError: shapes that do not belong together.

    Source: arXiv 2503.19595; verl ``grpo_passk``.
    """
    r, same = widened(r), same_group(r, groups)
    others = same & ~torch.eye(len(r), dtype=torch.bool, device=r.device)
    runner_up = torch.cat([torch.where(others, r, -torch.inf), r.new_full((len(r), 1), -torch.inf)], dim=1).amax(dim=1)
    lead = torch.where(others.any(dim=1), r - runner_up, 0.0).clamp(min=0.0)
    return lead / (std_of_members(r, same) + eps) if scale else lead


def gdpo_advantages(
    r: Tensor,
    groups: Tensor,
    weights: Sequence[float] | None = None,
    baseline: Literal["mean", "leave_one_out"] = "mean",
    scale: Literal["group", "leave_one_out", "none"] = "group",
    eps: float = 1e-4,
    batch_eps: float = 1e-4,
) -> Tensor:
    """Return A = (S - mean S) / (std S + batch_eps), S_i = sum_n w_n A_i(r_n), [B]: every reward is normalised by itself.

    A(r_n) is ``grpo_advantages`` of the n-th reward, so a reward of small scale has its say; mean and unbiased std of S are
    over the batch. Where the std is 0, or there is one answer, it is S - mean S. Multiplying or shifting one reward changes
    nothing but for eps. TRL has the defaults; NeMo RL ``"leave_one_out"`` twice, eps 1e-6 and batch_eps 0; verl eps 1e-6
    and then ``whiten`` over tokens, in which an answer counts its length.

    Args:
        r: rewards [B, N], one column per kind.
        groups: [B] integers, equal for answers to one prompt.
        weights: w_n, N numbers; None is all ones.

    Raises:
        ValueError: shapes that do not belong together, another number of weights than of rewards.

    Source: arXiv 2601.05242; TRL ``normalize_then_sum``; NeMo RL ``gdpo``.
    """
    require_shape("rewards", r, ("B", "N"), "one column per kind of reward")
    w = [1.0] * r.shape[1] if weights is None else list(weights)
    if len(w) != r.shape[1]:
        raise ValueError(f"weights has {len(w)} numbers for {r.shape[1]} kinds of reward")
    r = widened(r)
    S = torch.zeros_like(r[:, 0])
    for n, w_n in enumerate(w):
        S = S + w_n * grpo_advantages(r[:, n], groups, baseline, scale, eps)
    centred = S - S.sum() / max(len(S), 1)
    std = (centred.square().sum() / max(len(S) - 1, 1)).sqrt()
    return torch.where(std > 0, centred / (std + batch_eps), centred)
