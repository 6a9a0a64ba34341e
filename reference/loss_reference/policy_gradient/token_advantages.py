"""Advantages that differ from token to token [B, S]; conventions as in ``advantages``."""

from __future__ import annotations

from typing import Final, Literal

import torch
from torch import Tensor

from loss_reference.policy_gradient.advantages import GAE, Singleton, gae, require_singleton, widened
from loss_reference.shapes import require_shape

__all__ = ["opd_advantages", "optimal_token_baseline", "vapo_gae"]

ALIGNMENTS: Final = ("position", "trained_token")


def vapo_gae(
    rewards: Tensor,
    values: Tensor,
    token_mask: Tensor,
    gamma: float = 1.0,
    lam_value: float = 1.0,
    lam_policy: float | None = None,
    alpha: float = 0.05,
) -> GAE:
    """Return the advantages of ``gae`` with lambda_policy and its returns with lambda_value, both [B, S].

    lambda_policy is 1 - 1 / (alpha n) for an answer of n trained tokens, at least 0: the longer the answer, the less the
    reward at its end fades. With both lambdas equal it is ``gae``.

    Args:
        rewards, values, token_mask, gamma: as in ``gae``, with ``carry_over``.
        lam_value: lambda of the returns, in [0, 1].
        lam_policy: lambda of the advantages, in [0, 1], the same for every answer; None adapts it to the length.
        alpha: above 0, read where ``lam_policy`` is None; alpha n of 1 or less gives 0.

    Raises:
        ValueError: shapes that do not belong together, ``alpha`` out of range.

    Source: arXiv 2504.05118; NeMo RL ``length_adaptive_alpha``.
    """
    if alpha <= 0:
        raise ValueError(f"alpha={alpha!r}; expected a number above 0")
    require_shape("token_mask", token_mask, tuple(rewards.shape), "that of the rewards")
    lam: float | Tensor = 1 - 1 / (alpha * (token_mask != 0).sum(dim=1).to(widened(rewards))).clamp(min=1.0)
    if lam_policy is not None:
        lam = lam_policy
    policy = gae(rewards, values, token_mask, gamma, lam)
    return GAE(policy.advantages, gae(rewards, values, token_mask, gamma, lam_value).returns)


def optimal_token_baseline(
    rewards: Tensor,
    old_logprobs: Tensor,
    sum_pi_squared: Tensor,
    token_mask: Tensor,
    groups: Tensor,
    weights: Tensor | None = None,
    align: Literal["position", "trained_token"] = "position",
    tail: Singleton = "zero",
    singleton: Singleton = "zero",
    eps: float = 1e-8,
) -> GAE:
    """Return A_t = G_t - B_t and the rewards to go G_t [B, S], B_t = sum_j G_jt W_jt / (sum_j W_jt + eps) over the group.

    W_t = sum_{s <= t} (1 - 2 pi_s + sum_v pi_sv^2) is how far the gradient of the answer so far reaches: the squared norm
    of the gradient of every log-probability with respect to the logits, added up. The baseline of least variance per
    token. sum_j W_jt A_jt over a group is 0, up to eps.

    Args:
        rewards: r_t [B, S].
        old_logprobs: log pi of the sampled tokens [B, S].
        sum_pi_squared: sum_v pi_v^2 of the distribution each token was drawn from [B, S].
        token_mask: [B, S], 0 at tokens the policy did not choose; their content is never looked at.
        groups: [B] integers, equal for answers to one prompt.
        weights: importance weights [B, S] of another generating policy; W is made of their squares times the norms.
        align: which tokens of a group are compared: those at the same ``"position"``, or the first, second, ...
            ``"trained_token"`` of each answer (verl's multi-turn ``tir_optimal_token_baseline``).
        tail: what a token gets that no other answer of its group reaches: ``"zero"``, the formula but for eps, or
            ``"reward"``, G_t (verl ``handle_zero_tail``).
        singleton: what an answer alone in its group gets, likewise; G_t in verl.

    Raises:
        ValueError: shapes that do not belong together, an unknown option.

    Source: verl ``optimal_token_baseline``.
    """
    if align not in ALIGNMENTS:
        raise ValueError(f"align={align!r}; expected one of {ALIGNMENTS}")
    require_singleton(singleton)
    require_singleton(tail, "tail")
    given = {"old_logprobs": old_logprobs, "sum_pi_squared": sum_pi_squared, "token_mask": token_mask}
    for name, x in given.items() if weights is None else {**given, "weights": weights}.items():
        require_shape(name, x, tuple(rewards.shape), "that of the rewards")
    require_shape("groups", groups, (rewards.shape[0],), "one per answer")
    active = token_mask != 0
    G = torch.where(active, widened(rewards), 0.0).flip(1).cumsum(1).flip(1)
    norms = 1 - 2 * widened(old_logprobs).exp() + widened(sum_pi_squared)
    if weights is not None:
        norms = norms * widened(weights).square()
    W = torch.where(active, norms, 0.0).to(G).cumsum(1)
    order = torch.arange(G.shape[1], device=G.device).expand_as(G)
    if align == "trained_token":  # to the front, in their order
        order = (~active).to(torch.uint8).argsort(dim=1, stable=True)
    G_, W_, there = G.gather(1, order), W.where(active, 0.0).gather(1, order), active.gather(1, order)
    same = (groups.unsqueeze(1) == groups).to(G)
    B = same @ (G_ * W_) / (same @ W_ + eps)
    compared, several = same @ there.to(G) > 1, same.sum(dim=1, keepdim=True) > 1
    own_return = torch.where(several, tail == "reward", singleton == "reward")
    A = torch.where(compared, G_ - B, torch.where(own_return, G_, 0.0))
    A = torch.zeros_like(G).scatter(1, order, A)
    return GAE(torch.where(active, A, 0.0), torch.where(active, G, 0.0))


def opd_advantages(teacher_logprobs: Tensor, prev_logprobs: Tensor, token_mask: Tensor) -> Tensor:
    """Return A_t = log p_teacher - log pi_old of the sampled tokens, a constant [B, S], 0 where the mask is.

    On-policy distillation as a policy gradient: in expectation over tokens of the policy, A is minus KL(pi_old || teacher),
    and ``reinforce`` with it follows the gradient of that KL downhill.

    Raises:
        ValueError: shapes that differ.

    Source: arXiv 2601.02780, eq. 8; NeMo RL ``opd``.
    """
    for name, x in (("prev_logprobs", prev_logprobs), ("token_mask", token_mask)):
        require_shape(name, x, tuple(teacher_logprobs.shape), "that of teacher_logprobs")
    return torch.where(token_mask != 0, widened(teacher_logprobs.detach()) - widened(prev_logprobs.detach()), 0.0)
