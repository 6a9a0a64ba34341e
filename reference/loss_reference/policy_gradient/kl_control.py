"""The KL penalty outside the loss: taken off the rewards, and its coefficient steered towards a target."""

from __future__ import annotations

import math
from typing import Final

from torch import Tensor

from loss_reference.policy_gradient.advantages import widened
from loss_reference.policy_gradient.kl import kl_penalty
from loss_reference.shapes import require_shape

__all__ = ["AdaptiveKLController", "kl_in_reward"]

LARGEST_ERROR: Final = 0.2


def kl_in_reward(
    rewards: Tensor,
    lp: Tensor,
    lp_ref: Tensor,
    coefficient: float,
    kl_type: str = "k1",
    input_clamp: float | None = None,
    output_clamp: float | None = None,
) -> Tensor:
    """Return r_t - c k(lp - lp_ref) per token [B, S], a constant: the advantage estimator sees the penalty, no loss does.

    Half precision is widened to float32.

    The reward of the whole answer belongs at its last token. Sum over the tokens for a penalty per answer (TRL's RLOO).

    Args:
        rewards: r_t [B, S], 0 where nothing was rewarded.
        lp, lp_ref: log-probabilities of the sampled tokens under the policy and the reference, [B, S].
        coefficient: c, at least 0: NeMo RL 0.01, OpenRLHF 0.01, TRL 0.05.
        kl_type: ``"k1"`` (TRL, OpenRLHF, torchtune), ``"k2"``, ``"k3"`` (NeMo RL) or ``"abs"``.
        input_clamp, output_clamp: as in ``kl_penalty``; NeMo RL 20 and 10.

    Raises:
        ValueError: shapes that differ.

    Source: arXiv 1909.08593, section 2.2.
    """
    require_shape("lp", lp, tuple(rewards.shape), "that of the rewards")
    require_shape("lp_ref", lp_ref, tuple(rewards.shape), "that of the rewards")
    lp, lp_ref = widened(lp.detach()), widened(lp_ref)
    k = kl_penalty(lp, lp_ref, kl_type, input_clamp=input_clamp, output_clamp=output_clamp)
    return widened(rewards.detach()) - coefficient * k


class AdaptiveKLController:
    """A coefficient that keeps the KL near a target: c <- c (1 + clip(KL / target - 1, -0.2, 0.2) n / horizon).

    It stays where KL = target, and moves by at most 0.2 n / horizon of itself.

    Args:
        coefficient: c to begin with, at least 0.
        target: the KL to hold, above 0, in the unit of the KL that ``update`` is told.
        horizon: over how many of what ``n`` counts the coefficient may move far, above 0.

    Raises:
        ValueError: a number out of range.

    Source: arXiv 1909.08593, section 2.2; TRL, verl, OpenRLHF.
    """

    def __init__(self, coefficient: float, target: float, horizon: float) -> None:
        if coefficient < 0 or target <= 0 or horizon <= 0:
            raise ValueError(
                f"coefficient={coefficient!r}, target={target!r}, horizon={horizon!r}; "
                "expected a coefficient of at least 0, target and horizon above 0"
            )
        self.coefficient, self.target, self.horizon = coefficient, target, horizon

    def update(self, kl: float, n: int) -> float:
        """Return the new coefficient after ``n`` answers (or steps) with this mean ``kl``.

        Raises:
            ValueError: ``kl`` is not finite; the coefficient would never recover from it.
        """
        if not math.isfinite(kl):
            raise ValueError(f"kl={kl!r}; expected a finite number")
        error = min(max(kl / self.target - 1, -LARGEST_ERROR), LARGEST_ERROR)
        self.coefficient *= 1 + error * n / self.horizon
        return self.coefficient
