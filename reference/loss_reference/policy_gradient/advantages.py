"""Advantages from rewards: how much better an answer was than expected. Constants, computed before the loss.

Rewards [B] are one number per answer, ``groups`` [B] says by any integer which prompt an answer belongs to. An advantage
[B] becomes the field ``advantages`` [B, S] as ``A.unsqueeze(1).expand_as(token_mask)``. Rewards [B, S] are one number per
token, 0 where nothing was rewarded. Rows that do not count (failed generations) are left out beforehand. Half precision is
widened to float32, since sums in it stand still. Further ones are in ``group_advantages`` and ``token_advantages``.

An answer alone in its group (``singleton``) gets 0 in NeMo RL and TRL, ``"zero"``, and its reward in verl, ``"reward"``.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from loss_reference.reduction import accumulation_dtype
from loss_reference.shapes import require_shape

__all__ = [
    "GAE",
    "Singleton",
    "dr_grpo_advantages",
    "gae",
    "grpo_advantages",
    "opo_advantages",
    "reinforce_plus_plus_advantages",
    "remax_advantages",
    "require_singleton",
    "rloo_advantages",
    "same_group",
    "std_of_members",
    "whiten",
    "widened",
]

BASELINES: Final = ("mean", "leave_one_out")
SCALES: Final = ("group", "leave_one_out", "batch", "none")
SINGLETONS: Final = ("zero", "reward")

Singleton: TypeAlias = Literal["zero", "reward"]


def grpo_advantages(
    r: Tensor,
    groups: Tensor,
    baseline: Literal["mean", "leave_one_out"] = "mean",
    scale: Literal["group", "leave_one_out", "batch", "none"] = "group",
    eps: float = 1e-6,
    singleton: Singleton = "zero",
) -> Tensor:
    """Return A_i = (r_i - baseline of its group) / (std + eps), [B]; every std is the unbiased one.

    ============== ===================================== ======================================= =====================
    option         value                                 formula                                 in
    ============== ===================================== ======================================= =====================
    baseline       ``"mean"``                            mean of the group                       verl, TRL, OpenRLHF
    ..             ``"leave_one_out"``                   mean of the others of the group         NeMo RL default, RLOO
    scale          ``"group"``                           std of the group                        verl, TRL, OpenRLHF
    ..             ``"leave_one_out"``                   std of the others of the group          NeMo RL default
    ..             ``"batch"``                           std of all rewards of the batch         TRL ``scale_rewards``
    ..             ``"none"``                            1, and no eps                           Dr. GRPO, RLOO
    singleton      ``"zero"``                            0 for an answer alone in its group      NeMo RL, TRL
    ..             ``"reward"``                          r / (1 + eps), r where not scaled       verl
    ============== ===================================== ======================================= =====================

    ``eps`` is 1e-6 in verl and NeMo RL, 1e-4 in TRL, 1e-9 in OpenRLHF. Where the std is 0 or not defined (fewer than two
    rewards) nothing is divided, as in NeMo RL. Singletons apart, the sum over a group is 0 unless scaled by
    ``"leave_one_out"``, and adding a number to all rewards changes nothing.

    Args:
        r: rewards [B].
        groups: [B] integers, equal for answers to one prompt.

    Raises:
        ValueError: shapes that do not belong together, an unknown option.

    Source: arXiv 2402.03300, section 4.1.2.
    """
    if baseline not in BASELINES or scale not in SCALES:
        raise ValueError(f"baseline={baseline!r}, scale={scale!r}; expected one of {BASELINES} and one of {SCALES}")
    require_singleton(singleton)
    r, same = widened(r), same_group(r, groups)
    others = same & ~torch.eye(len(r), dtype=torch.bool, device=r.device)
    lead = _mean_lead(r, same if baseline == "mean" else others)
    alone = ~others.any(dim=1)
    A = torch.where(alone, r if singleton == "reward" else 0.0, lead)
    if scale == "none":
        return A
    members = {"group": same, "leave_one_out": others, "batch": torch.ones_like(same)}[scale]
    std = std_of_members(r, members) if scale == "batch" else torch.where(alone, 1.0, std_of_members(r, members))
    return torch.where(std > 0, A / (std + eps), A)


def dr_grpo_advantages(r: Tensor, groups: Tensor, singleton: Singleton = "zero") -> Tensor:
    """Return A_i = r_i - mean of its group, [B]: the std is left out, it favours prompts that are easy or hopeless.

    Source: arXiv 2503.20783; verl ``norm_adv_by_std_in_grpo=False``, TRL ``scale_rewards="none"``.
    """
    return grpo_advantages(r, groups, scale="none", singleton=singleton)


def rloo_advantages(r: Tensor, groups: Tensor, singleton: Singleton = "zero") -> Tensor:
    """Return A_i = r_i - mean_{j != i} r_j = G / (G - 1) (r_i - mean), [B], for a group of G answers.

    TRL can whiten them over the batch (``normalize_advantages``): (A - A.mean()) / (A.std() + 1e-4).

    Source: arXiv 2402.14740, eq. 7.
    """
    return grpo_advantages(r, groups, baseline="leave_one_out", scale="none", singleton=singleton)


def remax_advantages(r: Tensor, greedy: Tensor) -> Tensor:
    """Return A = r - r_greedy, [B]: the baseline is the reward of the greedy answer to the same prompt.

    Source: arXiv 2310.10505, eq. 6; verl ``remax``.
    """
    require_shape("greedy", greedy, tuple(r.shape), "that of the rewards")
    return widened(r) - widened(greedy)


def opo_advantages(r: Tensor, lengths: Tensor, groups: Tensor, singleton: Singleton = "zero") -> Tensor:
    """Return A_i = r_i - sum_j n_j r_j / sum_j n_j over its group, [B], with n the lengths of the answers.

    The length-weighted mean is the baseline of least variance when gradients of tokens are uncorrelated.

    Source: arXiv 2505.23585, eq. 6; verl ``opo``.
    """
    require_shape("lengths", lengths, tuple(r.shape), "one per answer")
    require_singleton(singleton)
    r, same = widened(r), same_group(r, groups)
    alone = (same.sum(dim=1) == 1) & (singleton == "reward")
    return torch.where(alone, r, _mean_lead(r, same, lengths.to(r)))


class GAE(NamedTuple):
    """Advantages and the returns a critic is trained on, both [B, S] and 0 where the mask is."""

    advantages: Tensor
    returns: Tensor


def gae(
    rewards: Tensor,
    values: Tensor,
    token_mask: Tensor,
    gamma: float = 1.0,
    lam: float | Tensor = 1.0,
    carry_over: bool = True,
) -> GAE:
    """Return A_t = delta_t + gamma lam A_{t+1}, delta_t = r_t + gamma V_{t+1} - V_t, and the returns A + V.

    V and A are 0 after the last token. With lam = 0 A is delta; with gamma = lam = 1 it is the reward to go minus V_t.

    Args:
        rewards, values: r_t and V_t [B, S].
        token_mask: [B, S], 0 at tokens the policy did not choose; their content is never looked at.
        gamma: discount, in [0, 1].
        lam: trade of bias for variance, in [0, 1]; one number, or one per row [B].
        carry_over: V_{t+1} and A_{t+1} are those of the next *trained* token, as in NeMo RL and verl. False takes the
            next position, with V = r = 0 at masked ones, as in TRL, OpenRLHF and torchtune.

    Raises:
        ValueError: shapes that do not belong together.

    Source: arXiv 1506.02438, eq. 16.
    """
    require_shape("values", values, tuple(rewards.shape), "that of the rewards")
    require_shape("token_mask", token_mask, tuple(rewards.shape), "that of the rewards")
    active = token_mask != 0
    r = torch.where(active, widened(rewards), 0.0)
    V = torch.where(active, values, 0.0).to(r)
    steps = active if carry_over else torch.ones_like(active)
    next_V = next_A = r.new_zeros(r.shape[0])
    backwards = []
    for t in reversed(range(r.shape[1])):
        A = r[:, t] + gamma * next_V - V[:, t] + gamma * lam * next_A
        next_V, next_A = torch.where(steps[:, t], V[:, t], next_V), torch.where(steps[:, t], A, next_A)
        backwards.append(next_A)
    advantages = torch.where(active, torch.stack(backwards[::-1], dim=1), 0.0) if backwards else r
    return GAE(advantages, torch.where(active, advantages + V, 0.0))


def whiten(x: Tensor, token_mask: Tensor, unbiased: bool = True, eps: float = 1e-8) -> Tensor:
    """Return (x - mean) / sqrt(var + eps) over the trained tokens of the whole batch, [B, S], 0 elsewhere.

    verl adds eps to the unbiased variance; NeMo RL and OpenRLHF take the biased variance, at least eps
    (``unbiased=False``). A single token gives 0.

    Raises:
        ValueError: ``token_mask`` has another shape.
    """
    require_shape("token_mask", token_mask, tuple(x.shape), "that of x")
    x, active = widened(x), token_mask != 0
    n = active.sum()
    centred = torch.where(active, x - torch.where(active, x, 0.0).sum() / n.clamp(min=1), 0.0)
    # Of equals the rounding of their mean is left, which the division would blow up; it is the mean of what is left.
    centred = torch.where(active, centred - centred.sum() / n.clamp(min=1), 0.0)
    if unbiased:
        return centred / (centred.square().sum() / (n - 1).clamp(min=1) + eps).sqrt()
    return centred / (centred.square().sum() / n.clamp(min=1)).clamp(min=eps).sqrt()


def reinforce_plus_plus_advantages(
    rewards: Tensor, token_mask: Tensor, gamma: float = 1.0, unbiased: bool = True, eps: float = 1e-8
) -> Tensor:
    """Return the rewards to go, whitened over all trained tokens of the batch, [B, S]: G_t = r_t + gamma G_{t+1}.

    The baseline variant whitens rewards from which ``dr_grpo_advantages`` has taken the mean of the group. Arguments and
    errors as ``gae`` and ``whiten``; a reward at a masked token is not looked at.

    Source: arXiv 2501.03262; verl ``reinforce_plus_plus``.
    """
    to_go = gae(rewards, torch.zeros_like(rewards), token_mask, gamma, lam=1.0).returns
    return whiten(to_go, token_mask, unbiased, eps)


def widened(x: Tensor) -> Tensor:
    """Return ``x``, as float32 where it is narrower."""
    return x.to(accumulation_dtype(x))


def require_singleton(given: str, name: str = "singleton") -> None:
    """Refuse a word that does not say what an answer without others to compare it with gets.

    Raises:
        ValueError: quotes it.
    """
    if given not in SINGLETONS:
        raise ValueError(f"{name}={given!r}; expected one of {SINGLETONS}")


def same_group(r: Tensor, groups: Tensor) -> Tensor:
    """Return whether answers i and j belong to one prompt, [B, B].

    Raises:
        ValueError: shapes that do not belong together.
    """
    require_shape("rewards", r, ("B",), "one per answer")
    require_shape("groups", groups, tuple(r.shape), "one per answer")
    return groups.unsqueeze(1) == groups


def _mean_lead(r: Tensor, members: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the (weighted) mean of r_i - r_j over the answers j that row i of ``members`` [B, B] selects, [B]; 0 without any.

    It is r_i minus their mean. A mean is rounded, and a std is no larger than that rounding where all are equal: differences
    of equals are 0, which nothing blows up.
    """
    w = members.to(r) if weights is None else members * weights
    n = w.sum(dim=1)
    return torch.where(members, w * (r.unsqueeze(1) - r), 0.0).sum(dim=1) / torch.where(n != 0, n, 1.0)


def std_of_members(r: Tensor, members: Tensor) -> Tensor:
    """Return the unbiased std of the rewards that row i of ``members`` [B, B] selects, [B]; 0 where there are fewer than 2."""
    from_mean = (r - r.unsqueeze(1)) + _mean_lead(r, members).unsqueeze(1)
    squares = torch.where(members, from_mean.square(), 0.0).sum(dim=1)
    return (squares / (members.sum(dim=1) - 1).clamp(min=1)).sqrt()
