"""Preference losses that know how much better the chosen answer is: they read a reward for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from loss_reference.contract import Option
from loss_reference.interface import Batch, Outputs
from loss_reference.pairs import mean_of_pairs
from loss_reference.preference.bernoulli import bernoulli_kl
from loss_reference.preference.dpo import dpo, sequence_log_ratio
from loss_reference.preference.layout import PairedLoss
from loss_reference.preference.pairwise import BETA, MONOTONE, active_pairs, pair_contract, row_constant
from loss_reference.registry import register
from loss_reference.settings import Setting
from loss_reference.token_level import refine

__all__ = [
    "ODPOLoss",
    "REBELLoss",
    "RPOBwdKLLoss",
    "RPOFwdKLLoss",
    "RPOScaleLoss",
    "RPOSqLoss",
    "RewardAwareLoss",
    "odpo",
    "rebel",
    "rpo_bwd_kl",
    "rpo_fwd_kl",
    "rpo_scale",
    "rpo_sq",
]


def rpo_sq(x: Tensor, y: Tensor) -> Tensor:
    """Return (x - y)^2: x = beta (h_w - h_l) [N] against the reward margin y [N]."""
    return (x - y) ** 2


def rpo_fwd_kl(x: Tensor, y: Tensor) -> Tensor:
    """Return KL(Bern(sigma(x)), Bern(sigma(y))): x = beta (h_w - h_l) [N] against the reward margin y [N]."""
    return bernoulli_kl(x, F.logsigmoid(y), F.logsigmoid(-y))


def rpo_bwd_kl(x: Tensor, y: Tensor) -> Tensor:
    """Return KL(Bern(sigma(y)), Bern(sigma(x))): x = beta (h_w - h_l) [N] against the reward margin y [N]."""
    return bernoulli_kl(y, F.logsigmoid(x), F.logsigmoid(-x))


def rpo_scale(delta: Tensor, gap: Tensor, beta: float = 0.2) -> Tensor:
    """Return -|gap| log sigma(beta delta): delta = h_w - h_l [N], gap the difference of rewards [N]."""
    return gap.abs() * dpo(delta, beta)


def rebel(delta: Tensor, gap: Tensor, eta: float = 1.0) -> Tensor:
    """Return (delta / eta - gap)^2: delta = h_w - h_l [N], gap the difference of rewards [N], eta above 0."""
    return (delta / eta - gap) ** 2


def odpo(delta: Tensor, gap: Tensor, beta: float = 0.1, alpha: float = 1.0) -> Tensor:
    """Return -log sigma(beta delta - alpha gap): delta = h_w - h_l [N], gap the difference of rewards [N]."""
    return dpo(beta * delta - alpha * gap, beta=1.0)


class RewardAwareLoss(PairedLoss):
    """L = mean over pairs of ``terms(delta, gap)``: delta = h_w - h_l, gap = rewards of chosen minus rejected.

    Reads what ``PairLoss`` reads, and ``batch["rewards"]`` [B], one constant per row. Only the policy receives gradient.

    Raises:
        KeyError: no ``rewards``.
        ValueError: an odd number of rows, shapes that do not belong together, a token id outside the vocabulary.
        ConfigError: a setting out of range or unknown.
    """

    def terms(self, delta: Tensor, gap: Tensor) -> Tensor:
        """Return [B/2] terms from log-ratio and reward differences [B/2]."""
        raise NotImplementedError(f"{type(self).__name__} must define terms(self, delta, gap)")

    def paired_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        h, w = sequence_log_ratio(batch, model_outputs)
        h_w, h_l = active_pairs(h, w)
        rewards_w, rewards_l = active_pairs(row_constant(batch, "rewards", h), w)
        return mean_of_pairs(self.terms(h_w - h_l, rewards_w - rewards_l), w, batch)


@register("rpo_sq")
class RPOSqLoss(RewardAwareLoss):
    """Reward-aware, squared: l = (x - y)^2, x = beta (h_w - h_l), y = eta (reward_w - reward_l).

    Inputs and errors as in ``RewardAwareLoss``. At least 0, reached at x = y; y^2 at policy = reference. Gradient
    dl/dx = 2 (x - y), towards the margin of the rewards, whichever side it lies on.

    Config: ``beta`` (0.2, above 0); ``eta`` (1.0, above 0). With both 1 it is ``rebel``, and with eta 1 beta is 1 / eta of
    that.

    Source: arXiv 2502.00203 (NeMo-Aligner ``rpo_sq_distance``).
    """

    contract = pair_contract(direction={}, beta=Option(values=(0.1, 0.2, 1.0)), eta=Option(values=(0.5, 1.0)))
    beta = Setting(0.2, above=0.0)
    eta = Setting(1.0, above=0.0)

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        if self.eta == 1:
            beta = Option(values=(0.1, 0.2, 1.0), reduces_to={1.0: "rebel"})
            self.contract = refine(self.contract, options={**self.contract.options, "beta": beta})

    def terms(self, delta: Tensor, gap: Tensor) -> Tensor:
        return rpo_sq(self.beta * delta, self.eta * gap)


@register("rpo_fwd_kl")
class RPOFwdKLLoss(RewardAwareLoss):
    """Reward-aware, forward: l = KL(Bern(sigma(x)), Bern(sigma(y))), x = beta (h_w - h_l), y = eta (reward_w - reward_l).

    Inputs and errors as in ``RewardAwareLoss``. At least 0, reached at x = y. dl/dx = sigma(x) sigma(-x) (x - y).
    "Forward" is NeMo-Aligner's name: the policy comes first.

    Config: ``beta`` (0.2, above 0); ``eta`` (1.0, above 0).

    Source: arXiv 2502.00203 (NeMo-Aligner ``rpo_fwd_kl``).
    """

    contract = pair_contract(direction={}, beta=Option(values=(0.1, 0.2, 1.0)), eta=Option(values=(0.5, 1.0)))
    beta = Setting(0.2, above=0.0)
    eta = Setting(1.0, above=0.0)

    def terms(self, delta: Tensor, gap: Tensor) -> Tensor:
        return rpo_fwd_kl(self.beta * delta, self.eta * gap)


@register("rpo_bwd_kl")
class RPOBwdKLLoss(RewardAwareLoss):
    """Reward-aware, backward: l = KL(Bern(sigma(y)), Bern(sigma(x))), x = beta (h_w - h_l), y = eta (reward_w - reward_l).

    Inputs and errors as in ``RewardAwareLoss``. At least 0, reached at x = y; for y -> inf it is ``dpo`` with the same
    beta. dl/dx = sigma(x) - sigma(y). "Backward" is NeMo-Aligner's name: the target comes first.

    Config: ``beta`` (0.2, above 0); ``eta`` (1.0, above 0).

    Source: arXiv 2406.11704 (NeMo-Aligner ``rpo_bwd_kl``).
    """

    contract = pair_contract(direction={}, beta=Option(values=(0.1, 0.2, 1.0)), eta=Option(values=(0.5, 1.0)))
    beta = Setting(0.2, above=0.0)
    eta = Setting(1.0, above=0.0)

    def terms(self, delta: Tensor, gap: Tensor) -> Tensor:
        return rpo_bwd_kl(self.beta * delta, self.eta * gap)


@register("rpo_scale")
class RPOScaleLoss(RewardAwareLoss):
    """Reward-aware, scaled: l = -|reward_w - reward_l| log sigma(beta (h_w - h_l)).

    Inputs and errors as in ``RewardAwareLoss``. At least 0, |reward_w - reward_l| log 2 at policy = reference; ``dpo`` with
    the same beta where the rewards are 1 apart, and 0, with no gradient, where they are equal. Each pair is weighed by
    its own gap (NeMo-Aligner multiplies the vector of gaps by the mean over the batch).

    Config: ``beta`` (0.2, above 0).

    Source: NeMo-Aligner ``scale``, beside the losses of arXiv 2406.11704.
    """

    contract = pair_contract(direction=MONOTONE, beta=Option(values=(0.1, 0.2, 1.0)))
    beta = Setting(0.2, above=0.0)

    def terms(self, delta: Tensor, gap: Tensor) -> Tensor:
        return rpo_scale(delta, gap, self.beta)


@register("rebel")
class REBELLoss(RewardAwareLoss):
    """REBEL: l = ((h_w - h_l) / eta - (reward_w - reward_l))^2.

    Inputs and errors as in ``RewardAwareLoss``. At least 0; (reward_w - reward_l)^2 at policy = reference, the policy
    that sampled both answers. ``rpo_sq`` with beta = 1 / eta is the same.

    Config: ``eta`` (1.0, above 0), the step size of the policy update.

    Source: arXiv 2404.16767.
    """

    contract = pair_contract(direction={}, eta=Option(values=(0.5, 1.0, 2.0)))
    eta = Setting(1.0, above=0.0)

    def terms(self, delta: Tensor, gap: Tensor) -> Tensor:
        return rebel(delta, gap, self.eta)


@register("odpo")
class ODPOLoss(RewardAwareLoss):
    """DPO with an offset: l = -log sigma(beta (h_w - h_l) - alpha (reward_w - reward_l)).

    Inputs and errors as in ``RewardAwareLoss``. At least 0, softplus(alpha (reward_w - reward_l)) at policy = reference;
    ``dpo`` for alpha = 0 and for equal rewards. The offset grows with the difference of the rewards itself; the paper
    also takes its logarithm, which a caller can pass as rewards.

    Config: ``beta`` (0.1, above 0); ``alpha`` (1.0, at least 0).

    Source: arXiv 2402.10571.
    """

    contract = pair_contract(beta=BETA, alpha=Option(values=(0.0, 1.0), reduces_to={0.0: "dpo"}))
    beta = Setting(0.1, above=0.0)
    alpha = Setting(1.0, least=0.0)

    def terms(self, delta: Tensor, gap: Tensor) -> Tensor:
        return odpo(delta, gap, self.beta, self.alpha)
