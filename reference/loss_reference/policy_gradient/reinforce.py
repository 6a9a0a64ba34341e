"""Policy gradient without a ratio: every token moves by its advantage."""

from __future__ import annotations

from torch import Tensor

from loss_reference.interface import Batch
from loss_reference.logprobs import token_constant
from loss_reference.policy_gradient.policy import POLICY_GRADIENT, PolicyLoss
from loss_reference.policy_gradient.ratio import straight_through
from loss_reference.registry import register
from loss_reference.token_level import AGGREGATION_OPTIONS, TokenLevelLoss, refine

__all__ = ["GPGLoss", "OnPolicyLoss", "ReinforceLoss", "on_policy", "reinforce"]


def reinforce(lp: Tensor, A: Tensor) -> Tensor:
    """Return -A lp per token."""
    return -A * lp


def on_policy(lp: Tensor, A: Tensor) -> Tensor:
    """Return -A rho per token with rho = exp(lp - sg lp): the value is -A, the gradient that of ``reinforce``.

    A token that the policy cannot give, lp = -inf, has the value and no gradient.
    """
    return -A * straight_through(lp).exp()


@register("reinforce")
class ReinforceLoss(TokenLevelLoss, PolicyLoss):
    """REINFORCE: L = aggregate of -A lp.

    Reads ``next_token_logprobs`` [B, S-1] (or ``logits`` [B, S, V] and ``input_ids`` [B, S]), ``advantages`` and
    ``token_mask``, both [B, S]; optional ``sample_mask`` [B], ``global_valid_toks``, ``global_valid_seqs``. Any real
    result, in nats times the unit of the advantage. Only the policy receives gradient: dl/dlp = -A.

    Config: ``aggregation`` (``"token_mean"``, NeMo RL; verl's default is ``"seq_mean_token_sum"``); ``max_length``
    (above 0, needed by ``"fixed"``).

    Raises:
        ValueError: shapes that do not belong together, a token id outside the vocabulary.
        ConfigError: a setting out of range or unknown, ``"fixed"`` without ``max_length``.

    Source: R. J. Williams, Machine Learning 8 (1992); NeMo RL ``disable_ppo_ratio``.
    """

    # -A lp rises with A, for lp <= 0: the value of this loss says nothing about how good the policy is.
    contract = refine(POLICY_GRADIENT, direction={"advantages": +1}, options=AGGREGATION_OPTIONS)
    strict_config = True

    def policy_terms(self, lp: Tensor, m: Tensor, batch: Batch) -> Tensor:
        return reinforce(lp, token_constant(batch, "advantages", m))


@register("gpg")
class GPGLoss(ReinforceLoss):
    """GPG: L = aggregate of -A lp, the loss of ``ReinforceLoss`` with advantages of its own, ``gpg_advantages``.

    Inputs, shapes, range, gradient, config and errors as ``ReinforceLoss``; no old policy, no clip, no penalty.

    Terms: ``reinforce``.

    Source: arXiv 2504.02546; verl ``gpg``.
    """

    contract = refine(ReinforceLoss.contract, baseline="reinforce")
    strict_config = True


@register("on_policy")
class OnPolicyLoss(TokenLevelLoss, PolicyLoss):
    """PPO with the ratio forced to 1: L = aggregate of -A exp(lp - sg lp).

    Inputs, shapes, config and errors as ``ReinforceLoss``; ``prev_logprobs`` is not read. The value is the aggregate of
    -A, whatever the policy; only the policy receives gradient, dl/dlp = -A, that of ``ReinforceLoss``.

    Source: NeMo RL ``force_on_policy_ratio``; TRL and Liger without old log-probabilities; torchtune ``GRPOSimpleLoss``.
    """

    contract = refine(
        POLICY_GRADIENT, surrogate_gradient=True, direction={"advantages": -1}, options=AGGREGATION_OPTIONS
    )
    strict_config = True

    def policy_terms(self, lp: Tensor, m: Tensor, batch: Batch) -> Tensor:
        return on_policy(lp, token_constant(batch, "advantages", m))
