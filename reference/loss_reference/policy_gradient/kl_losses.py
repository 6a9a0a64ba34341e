"""The KL penalties as losses of their own, to be added to any policy loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from torch import Tensor

from loss_reference.contract import Option
from loss_reference.interface import Batch
from loss_reference.logprobs import token_constant
from loss_reference.policy_gradient.kl import KL_GRADIENTS, KL_TYPES, kl_penalty, unbiased_kl
from loss_reference.policy_gradient.policy import POLICY_GRADIENT, PolicyLoss
from loss_reference.registry import register
from loss_reference.settings import Setting
from loss_reference.token_level import AGGREGATION_OPTIONS, TokenLevelLoss, refine

__all__ = ["KLAbsLoss", "KLK1Loss", "KLK2Loss", "KLK3Loss", "KLLoss", "KLStraightThroughLoss", "KLUnbiasedLoss"]


OPTIONS: Final = {"coefficient": Option(values=(0.0, 0.1, 1.0)), **AGGREGATION_OPTIONS}
CLAMPS: Final = {"input_clamp": Option(values=(None, 0.5, 20.0)), "output_clamp": Option(values=(None, 0.1, 10.0))}


class KLLoss(TokenLevelLoss, PolicyLoss):
    """L = c times the aggregate of an estimate of KL(policy || reference), one term per token, from d = lp - lp_ref.

    Reads ``next_token_logprobs`` [B, S-1] (or ``logits`` [B, S, V] and ``input_ids`` [B, S]),
    ``reference_policy_logprobs`` and ``token_mask``, both [B, S]; optional ``sample_mask`` [B], ``global_valid_toks``,
    ``global_valid_seqs``. Result in nats, 0 at policy = reference. Only the policy receives gradient.

    Config: ``coefficient`` c (1, at least 0); ``input_clamp`` (None; above 0: d is kept within it, either way) and
    ``output_clamp`` (None; above 0: so is the term), of NeMo RL 20 and 10, see ``kl_penalty``; ``aggregation``
    (``"token_mean"``; that of the policy loss it is added to); ``max_length`` (above 0, needed by ``"fixed"``).

    Raises:
        ValueError: shapes that do not belong together, a token id outside the vocabulary.
        ConfigError: a setting out of range or unknown, ``"fixed"`` without ``max_length``.
    """

    contract = refine(POLICY_GRADIENT, options=OPTIONS)
    coefficient = Setting(1.0, least=0.0)
    input_clamp = Setting[float | None](None, above=0.0, optional=True)
    output_clamp = Setting[float | None](None, above=0.0, optional=True)

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        if self.estimator_name() != "k1":  # the only one of either sign
            self.contract = refine(self.contract, lower_bound=0.0, direction={"coefficient": +1})

    def estimator_name(self) -> str:
        """Return which of ``KL_TYPES`` gives the value."""
        raise NotImplementedError(f"{type(self).__name__} must define estimator_name(self)")

    def policy_terms(self, lp: Tensor, m: Tensor, batch: Batch) -> Tensor:
        k = self.kl_terms(lp, token_constant(batch, "reference_policy_logprobs", m), m, batch)
        # A penalty of weight 0 is none even where it is infinite: a reference may find a token impossible.
        return self.coefficient * (k if self.coefficient > 0 else lp)

    def kl_terms(self, lp: Tensor, lp_ref: Tensor, m: Tensor, batch: Batch) -> Tensor:
        """Return the estimate of every token [B, S-1]."""
        raise NotImplementedError(f"{type(self).__name__} must define kl_terms(self, lp, lp_ref, m, batch)")


class KLEstimatorLoss(KLLoss):
    """A KL loss of one estimator, whose gradient can be chosen.

    Config: that of ``KLLoss`` and ``kl_gradient`` (``"pathwise"``: TRL, Liger, torchtune, OpenRLHF; ``"score_function"``:
    NeMo RL; ``"straight_through_k2"``: verl ``k1+``, ``k3+``). See ``kl_penalty``.
    """

    estimator: ClassVar[str]
    contract = refine(KLLoss.contract, options={**OPTIONS, **CLAMPS, "kl_gradient": Option(values=KL_GRADIENTS)})
    kl_gradient = Setting("pathwise", choices=KL_GRADIENTS)

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        if self.kl_gradient != "pathwise":
            self.contract = refine(self.contract, surrogate_gradient=True)

    def estimator_name(self) -> str:
        return self.estimator

    def kl_terms(self, lp: Tensor, lp_ref: Tensor, m: Tensor, batch: Batch) -> Tensor:
        return kl_penalty(lp, lp_ref, self.estimator, self.kl_gradient, self.input_clamp, self.output_clamp)


@register("kl_k1")
class KLK1Loss(KLEstimatorLoss):
    """KL k1: l = d. Unbiased, of either sign; the gradient of its value is 1 at every token, 0 in expectation.

    Inputs, shapes, config and errors as ``KLLoss`` and ``KLEstimatorLoss``. Only ``kl_gradient`` other than
    ``"pathwise"`` pulls towards the reference.

    Terms: ``k1``, see ``kl_penalty`` for its gradients.

    Source: J. Schulman, "Approximating KL divergence" (2020); gradients: arXiv 2506.09477.
    """

    estimator = "k1"
    strict_config = True

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        if self.kl_gradient == "pathwise" and self.input_clamp is None and self.output_clamp is None:
            reason = (
                "the gradient of lp - lp_ref is 1 whatever the reference is, which is the known defect of k1 as a loss"
            )
            self.contract = refine(self.contract, exempt={**self.contract.exempt, "input_effect": reason})


@register("kl_k2")
class KLK2Loss(KLEstimatorLoss):
    """KL k2: l = d^2 / 2. Biased, at least 0; the expectation of its gradient d is that of KL(policy || reference).

    Inputs, shapes, config and errors as ``KLLoss`` and ``KLEstimatorLoss``. With ``"score_function"`` (NeMo RL ``k2``)
    the gradient d + d^2 / 2 is no longer that of a KL.

    Terms: ``k2``, see ``kl_penalty`` for its gradients.

    Source: J. Schulman, "Approximating KL divergence" (2020); gradients: arXiv 2506.09477.
    """

    estimator = "k2"
    strict_config = True


@register("kl_k3")
class KLK3Loss(KLEstimatorLoss):
    """KL k3: l = e^-d - 1 + d. Unbiased and at least 0; its gradient 1 - e^-d is in expectation that of KL(ref || policy).

    Inputs, shapes, config and errors as ``KLLoss`` and ``KLEstimatorLoss``. With ``"score_function"`` and
    ``"straight_through_k2"`` the gradient is d, in expectation that of KL(policy || reference). -d saturates at 70 nats
    (``MAX_LOG_RATIO``). verl calls it ``low_var_kl`` and clamps this one alone, at 20 and 10.

    Terms: ``k3``, see ``kl_penalty`` for its gradients.

    Source: J. Schulman, "Approximating KL divergence" (2020); gradients: arXiv 2506.09477.
    """

    estimator = "k3"
    strict_config = True


@register("kl_abs")
class KLAbsLoss(KLEstimatorLoss):
    """KL abs: l = |d|. At least 0, with gradient sign d (0 at d = 0); no estimate of a KL but a distance.

    Inputs, shapes, config and errors as ``KLLoss`` and ``KLEstimatorLoss``.

    Terms: ``k_abs``, see ``kl_penalty`` for its gradients.

    Source: verl ``abs``.
    """

    estimator = "abs"
    strict_config = True


@register("kl_straight_through")
class KLStraightThroughLoss(KLLoss):
    """Straight-through KL: the value of an estimator with the gradient of k2, dl/dlp = d, clamped or not.

    Inputs, shapes and errors as ``KLLoss``; it is the estimator's loss with ``kl_gradient="straight_through_k2"``. At
    least 0 but for k1. The gradient is in expectation that of KL(policy || reference), and not that of the value.

    Config: that of ``KLLoss`` and ``kl_type`` (``"k3"``; ``"k1"``, ``"k2"``, ``"abs"``).

    Terms: ``kl_penalty`` with the gradient of ``k2``.

    Source: verl ``k1+``, ``k3+``.
    """

    contract = refine(
        KLLoss.contract,
        surrogate_gradient=True,
        options={**OPTIONS, **CLAMPS, "kl_type": Option(values=KL_TYPES)},
        exempt={"option_effect": "kl_type and the clamps choose the value alone; the gradient is that of k2"},
    )
    kl_type = Setting("k3", choices=KL_TYPES)

    def estimator_name(self) -> str:
        return self.kl_type

    def kl_terms(self, lp: Tensor, lp_ref: Tensor, m: Tensor, batch: Batch) -> Tensor:
        return kl_penalty(lp, lp_ref, self.kl_type, "straight_through_k2", self.input_clamp, self.output_clamp)


@register("kl_unbiased")
class KLUnbiasedLoss(KLLoss):
    """Unbiased KL: l = rho k(d), rho = exp(lp - lp_old): the estimator reweighted to the policy that is trained.

    Inputs, shapes and errors as ``KLLoss``, and ``prev_logprobs`` [B, S], those of the policy the tokens were drawn from:
    the old policy in TRL, the generating one in NeMo RL. At least 0 but for k1; on policy the value of the estimator. rho
    has its gradient: dl/dlp = rho (k + dk/dd), in expectation that of KL(policy || reference) for k1 and k3. The exponent
    of rho saturates at 70 nats (``MAX_LOG_RATIO``) less those of e^-d. Where a clamp holds: that of the input leaves rho
    without gradient as well, that of the output (of rho k) the whole term.

    Config: that of ``KLLoss`` and ``kl_type`` (``"k3"``; ``"k1"``, Open-Instruct's third estimator; ``"k2"``, ``"abs"``).

    Terms: ``unbiased_kl``.

    Source: arXiv 2512.02556; TRL ``use_bias_correction_kl``; NeMo RL ``use_on_policy_kl_approximation``.
    """

    contract = refine(KLLoss.contract, options={**OPTIONS, **CLAMPS, "kl_type": Option(values=KL_TYPES)})
    kl_type = Setting("k3", choices=KL_TYPES)

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        if self.input_clamp is not None:  # rho goes on without its gradient
            self.contract = refine(self.contract, surrogate_gradient=True)

    def estimator_name(self) -> str:
        return self.kl_type

    def kl_terms(self, lp: Tensor, lp_ref: Tensor, m: Tensor, batch: Batch) -> Tensor:
        lp_old = token_constant(batch, "prev_logprobs", m)
        return unbiased_kl(lp, lp_ref, lp_old, self.kl_type, self.input_clamp, self.output_clamp)
