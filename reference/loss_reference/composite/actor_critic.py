"""The total loss of an actor-critic: policy, value, entropy and distance to a reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from loss_reference.composite.combine import split_result, with_metrics
from loss_reference.composite.composed import ComposedLoss
from loss_reference.composite.parts import create_part
from loss_reference.composite.promises import refined
from loss_reference.contract import Contract, Option
from loss_reference.interface import Batch, LossFunction, LossResult, Outputs
from loss_reference.registry import register
from loss_reference.settings import Setting

__all__ = ["ActorCriticTotalLoss", "actor_critic_total"]


def actor_critic_total(
    policy: Tensor,
    value: Tensor | float = 0.0,
    entropy: Tensor | float = 0.0,
    kl: Tensor | float = 0.0,
    c_v: float = 0.5,
    c_e: float = 0.0,
    c_k: float = 0.0,
) -> Tensor:
    """Return L_policy + c_v L_value - c_e H + c_k KL.

    Args:
        policy, value: the losses of policy and critic, 0-dim.
        entropy, kl: mean entropy of the policy and its mean divergence from the reference, 0-dim, in nats per token.
        c_v, c_e, c_k: at least 0; a part of coefficient 0 is left at 0.
    """
    return policy + c_v * value - c_e * entropy + c_k * kl


@register("actor_critic_total")
class ActorCriticTotalLoss(LossFunction):
    """Actor-critic: L = L_policy + c_v L_value - c_e H + c_k KL.

    H is the mean entropy of the policy over trained tokens (``entropy_bonus``) and KL the mean of the estimator k3 of the
    divergence from the reference (``kl_k3``). Each part keeps its own normaliser; a part of coefficient 0 is not
    evaluated, and what it reads is not needed. Reads what its parts read: with the defaults that is what ``PPOClipLoss``
    and ``ValueMSELoss`` read; ``logits`` [B, S, V] for c_e > 0; ``reference_policy_logprobs`` [B, S] for c_k > 0. Any real
    result. The gradient is the weighted sum of the parts' gradients. ``components`` names them ``policy``, ``value``,
    ``entropy`` and ``kl``.

    Config: ``policy`` (``{"type": "ppo_clip"}``) and ``value`` (``{"type": "value_mse"}``), configs of the parts;
    ``value_coefficient`` c_v (0.5; TRL and torchtune 0.1), ``entropy_coefficient`` c_e (0), ``kl_coefficient`` c_k (0), all
    at least 0.

    Raises:
        ConfigError: a part that is no config with a type, a setting out of range or unknown.
        ValueError: a part that is not a 0-dim tensor, and whatever the parts raise.

    Source: arXiv 1707.06347, eq. 9, with a penalty for the distance to a reference.
    """

    contract = Contract(family="composite")
    policy: Setting[Mapping[str, Any]] = Setting({"type": "ppo_clip"}, check=False)
    value: Setting[Mapping[str, Any]] = Setting({"type": "value_mse"}, check=False)
    value_coefficient = Setting(0.5, least=0.0)
    entropy_coefficient = Setting(0.0, least=0.0)
    kl_coefficient = Setting(0.0, least=0.0)

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        for key, part in (("policy", self.policy), ("value", self.value)):
            create_part(type(self).__name__, key, part)
        parts = [{**self.policy, "name": "policy"}, {**self.value, "name": "value", "weight": self.value_coefficient}]
        if self.entropy_coefficient > 0:
            parts.append(
                {"type": "entropy_bonus", "coefficient": 1.0, "name": "entropy", "weight": self.entropy_coefficient}
            )
        if self.kl_coefficient > 0:
            parts.append({"type": "kl_k3", "name": "kl", "weight": self.kl_coefficient})
        self.total = ComposedLoss({"loss_functions": parts})
        # Only the coefficients whose parts are evaluated: another value of the others needs inputs this loss does not.
        given = ("value_coefficient", "entropy_coefficient", "kl_coefficient")
        options = {name: Option((0.0, 0.5, 1.0)) for name in given if getattr(self, name) > 0}
        self.contract = refined(self.total.contract, options=options)

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> LossResult:
        parts = self.total.weighted_losses(batch, model_outputs)
        losses = {name: split_result(name, result)[0] for name, _, result in parts}
        value, kl, H = losses.get("value", 0.0), losses.get("kl", 0.0), -losses.get("entropy", 0.0)
        c_v, c_e, c_k = self.value_coefficient, self.entropy_coefficient, self.kl_coefficient
        return with_metrics(actor_critic_total(losses["policy"], value, H, kl, c_v, c_e, c_k), parts)

    def components(self, batch: Batch, model_outputs: Outputs) -> dict[str, Tensor]:
        """Return the weighted parts by name; they add up to the loss."""
        return self.total.components(batch, model_outputs)
