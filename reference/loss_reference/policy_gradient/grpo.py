"""Group relative policy optimisation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from loss_reference.contract import Option
from loss_reference.interface import Batch, Outputs
from loss_reference.logprobs import token_constant, trained_logprobs
from loss_reference.policy_gradient.kl import KL_GRADIENTS, KL_TYPES, kl_penalty
from loss_reference.policy_gradient.ppo_clip import PPOClipLoss
from loss_reference.reduction import AGGREGATIONS
from loss_reference.registry import register
from loss_reference.relevance import unless
from loss_reference.settings import Setting
from loss_reference.token_level import refine

__all__ = ["GRPOLoss", "grpo"]


def grpo(policy: Tensor, k: Tensor, beta: float = 0.04) -> Tensor:
    """Return policy + beta k, one term per token.

    Args:
        policy: max(-A rho, -A clip(rho)), the term of ``ppo_clip``.
        k: k(lp - lp_ref), that of ``kl_penalty``, in nats; of the shape of ``policy``.
        beta: strength of the pull towards the reference, at least 0.
    """
    return policy + beta * k


@register("grpo")
class GRPOLoss(PPOClipLoss):
    """GRPO: L = aggregate of max(-A rho, -A clip(rho)) + beta k(lp - lp_ref), the PPO term plus a KL penalty per token.

    Reads what ``PPOClipLoss`` reads and, unless beta is 0, ``reference_policy_logprobs`` [B, S]. ``advantages`` [B, S]
    arrive normalised within their group. Any real result. Only the policy receives gradient.
    ``components`` gives ``"policy"`` and ``"kl_penalty"`` (beta included), which add up to the loss.

    Config: that of ``PPOClipLoss`` with ``aggregation`` (``"seq_mean_token_mean"``), and
    ``reference_policy_kl_penalty`` beta (0.04, at least 0); ``kl_type`` (``"k3"``; ``"k1"``, ``"k2"``, ``"abs"``);
    ``kl_gradient`` (``"pathwise"``; ``"score_function"``, ``"straight_through_k2"``, see ``kl_penalty``);
    ``kl_input_clamp`` (None; above 0: lp - lp_ref is kept within it) and ``kl_output_clamp`` (None; above 0: so is k).

    ================================================== ========================================================
    to reproduce                                        config
    ================================================== ========================================================
    TRL ``loss_type="grpo"``                            beta 0 by default
    TRL ``"dapo"``, ``"bnpo"``                          ``aggregation="token_mean"``; for the latter no global counts
    Liger                                               as TRL, beta 0.04 by default
    NeMo RL                                             ``aggregation="token_mean"``, beta 0.01,
    ..                                                  ``kl_gradient="score_function"``, the clamps 20 and 10
    verl                                                ``aggregation="token_mean"``, ``ratio_clip_c=3``,
    ..                                                  ``log_ratio_clamp=20``, beta 0.001, for k3 the clamps 20 and 10
    torchtune                                           ``aggregation="token_mean"`` without global counts, both clips
    ..                                                  0.1, beta 0.1
    ================================================== ========================================================

    Raises:
        ValueError: shapes that do not belong together, a token id outside the vocabulary.
        ConfigError: a setting out of range or unknown, ``"fixed"`` without ``max_length``.

    Source: arXiv 2402.03300, eq. 3 and 4; gradients of the penalty: arXiv 2506.09477.
    """

    contract = refine(
        PPOClipLoss.contract,
        level="sequence",
        direction={"advantages": -1},
        options={
            **PPOClipLoss.contract.options,
            "reference_policy_kl_penalty": Option(values=(0.0, 0.04, 1.0)),
            "kl_type": Option(values=KL_TYPES),
            "kl_gradient": Option(values=KL_GRADIENTS),
            "kl_input_clamp": Option(values=(None, 0.5, 20.0)),
            "kl_output_clamp": Option(values=(None, 0.2, 10.0)),
        },
    )
    aggregation = Setting("seq_mean_token_mean", choices=AGGREGATIONS)
    reference_policy_kl_penalty = Setting(0.04, least=0.0)
    kl_type = Setting("k3", choices=KL_TYPES, read_when=unless("reference_policy_kl_penalty", 0))
    kl_gradient = Setting("pathwise", choices=KL_GRADIENTS, read_when=unless("reference_policy_kl_penalty", 0))
    kl_input_clamp = Setting[float | None](
        None, above=0.0, optional=True, read_when=unless("reference_policy_kl_penalty", 0)
    )
    kl_output_clamp = Setting[float | None](
        None, above=0.0, optional=True, read_when=unless("reference_policy_kl_penalty", 0)
    )

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        if self.kl_type != "k1":  # the only estimator that may be negative
            signs = {**self.contract.direction, "reference_policy_kl_penalty": +1}
            self.contract = refine(self.contract, direction=signs)
        if self.kl_gradient != "pathwise":
            self.contract = refine(self.contract, surrogate_gradient=True)

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        lp, m = trained_logprobs(batch, model_outputs)
        policy, beta = self.policy_terms(lp, m, batch), self.reference_policy_kl_penalty
        return self.reduce(policy if beta == 0 else grpo(policy, self._k(lp, m, batch), beta), m, batch)

    def components(self, batch: Batch, model_outputs: Outputs) -> dict[str, Tensor]:
        lp, m = trained_logprobs(batch, model_outputs)
        parts = {"policy": self.reduce(self.policy_terms(lp, m, batch), m, batch)}
        if self.reference_policy_kl_penalty > 0:
            parts["kl_penalty"] = self.reference_policy_kl_penalty * self.reduce(self._k(lp, m, batch), m, batch)
        return parts

    def _k(self, lp: Tensor, m: Tensor, batch: Batch) -> Tensor:
        lp_ref = token_constant(batch, "reference_policy_logprobs", m)
        return kl_penalty(lp, lp_ref, self.kl_type, self.kl_gradient, self.kl_input_clamp, self.kl_output_clamp)
