"""Entropy bonus: reward the policy for not making up its mind."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from loss_reference.contract import Option
from loss_reference.interface import Batch, Outputs
from loss_reference.policy_gradient.policy import POLICY_GRADIENT
from loss_reference.reduction import keep_active, mean_of_terms, token_weights
from loss_reference.registry import register
from loss_reference.relevance import unless
from loss_reference.settings import Setting
from loss_reference.shapes import require_shape
from loss_reference.token_level import AGGREGATION_OPTIONS, TokenLevelLoss, refine

__all__ = ["AdaptiveEntropyCoefficient", "EntropyBonusLoss", "entropy", "most_uncertain"]

DIVISORS: Final = ("trained", "kept")


def entropy(logits: Tensor) -> Tensor:
    """Return H = -sum_v p_v log p_v in nats, p = softmax(logits), over the last axis; a logit of -inf adds 0.

    Between 0 and log V, the latter where all logits are equal. dH/dz_v = -p_v (log p_v + H).
    """
    log_p = logits.log_softmax(dim=-1)
    return -(log_p.exp() * torch.where(torch.isneginf(log_p), 0.0, log_p)).sum(dim=-1)


def most_uncertain(H: Tensor, trained: Tensor, share: float) -> Tensor:
    """Return which ``trained`` tokens have an entropy of at least the (1 - share)-quantile of the trained tokens.

    The quantile interpolates linearly. All tokens for a share of 1, those of largest entropy for 0.
    """
    of_trained = torch.where(trained, H.detach(), float("nan")).flatten()
    of_trained = torch.cat([of_trained, of_trained.new_full((1,), float("nan"))])  # a quantile of nothing is refused
    return trained & (of_trained.nanquantile(1 - share) <= H)


@register("entropy_bonus")
class EntropyBonusLoss(TokenLevelLoss):
    """Entropy bonus: L = -c times the aggregate of H = -sum_v p_v log p_v, added to a policy loss.

    Reads ``logits`` [B, S, V] and ``token_mask`` [B, S]; optional ``sample_mask`` [B], ``global_valid_toks``,
    ``global_valid_seqs``. Position t of the logits is the distribution token t+1 was drawn from and has its weight.
    Result in nats, at most 0; at least -c log V where the counts are those of the batch, reached where p is uniform. Only
    the logits receive gradient: dl/dz_v = c p_v (log p_v + H).

    Config: ``coefficient`` c (0.01, at least 0); ``top_quantile`` q (1, 0 to 1): tokens whose H is at least the
    (1 - q)-quantile of the trained tokens of *this* batch, for TRL's ``top_entropy_quantile``; ``divisor``
    (``"trained"``: all trained tokens still count; ``"kept"``: where q is below 1 a mean over tokens is one over the kept
    tokens, of this batch for ``"token_mean"`` whatever the counts, TRL); ``aggregation`` (``"token_mean"``, the only one of
    TRL; verl follows its policy loss); ``max_length`` (above 0, needed by ``"fixed"``).

    Raises:
        KeyError: no ``logits``.
        ValueError: shapes that do not belong together.
        ConfigError: a setting out of range or unknown, ``"fixed"`` without ``max_length``.

    Terms: ``entropy``, and ``most_uncertain`` for the quantile.

    Source: R. J. Williams and J. Peng (1991); top quantile: arXiv 2506.01939.
    """

    contract = refine(
        POLICY_GRADIENT,
        upper_bound=0.0,
        direction={"coefficient": -1},
        options={
            "coefficient": Option(values=(0.0, 0.01, 1.0)),
            "top_quantile": Option(values=(0.0, 0.5, 1.0)),
            "divisor": Option(values=DIVISORS),
            **AGGREGATION_OPTIONS,
        },
    )
    coefficient = Setting(0.01, least=0.0)
    top_quantile = Setting(1.0, least=0.0, most=1.0)
    divisor = Setting("trained", choices=DIVISORS, read_when=unless("top_quantile", 1))

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        if self.top_quantile < 1:
            local = self.divisor == "kept" and self.aggregation == "token_mean"
            normalizer = "local" if local else "global"
            # A quantile between two tokens moves when every token is repeated.
            self.contract = refine(self.contract, coupled=True, normalizer=normalizer, length_normalized=False)

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        logits = model_outputs["logits"]
        require_shape("logits", logits, (*batch["token_mask"].shape, "V"), "beside token_mask")
        m = token_weights(batch, logits[:, :-1, 0])
        H = entropy(keep_active(logits[:, :-1], m))
        if self.top_quantile == 1:
            return -self.coefficient * self.reduce(H, m, batch)
        kept = most_uncertain(H, m != 0, self.top_quantile)
        if self.divisor == "trained":
            return -self.coefficient * self.reduce(H * kept, m, batch)
        if self.aggregation == "token_mean":
            return -self.coefficient * mean_of_terms(H, m * kept, count=None)
        return -self.coefficient * self.reduce(H, m * kept, batch)


class AdaptiveEntropyCoefficient:
    """A coefficient that holds the entropy at a target: up by a step where H <= target, down by one where it is above.

    ``value`` is what to give the bonus now: the coefficient while the last entropy was at most the target, else 0. Before
    the first update there is no last entropy, and it is 0.

    Args:
        coefficient: to begin with, within [least, most].
        target: entropy to hold, nats per token, at least 0.
        step: how far one update moves, above 0.
        least, most: bounds of the coefficient, at least 0.

    Raises:
        ValueError: a number out of range.

    Source: arXiv 2505.22312; TRL ``use_adaptive_entropy``.
    """

    def __init__(
        self, coefficient: float = 0.0, target: float = 0.2, step: float = 0.005, least: float = 0.0, most: float = 1.0
    ) -> None:
        if not (0 <= least <= coefficient <= most and target >= 0 and step > 0):
            raise ValueError(
                f"coefficient={coefficient!r}, target={target!r}, step={step!r}, least={least!r}, most={most!r}; "
                "expected 0 <= least <= coefficient <= most, a target of at least 0 and a step above 0"
            )
        self.coefficient, self.target, self.step = coefficient, target, step
        self.least, self.most = least, most
        self.last_entropy = math.inf

    @property
    def value(self) -> float:
        """The coefficient to apply to the next step."""
        return self.coefficient if self.last_entropy <= self.target else 0.0

    def update(self, mean_entropy: float) -> float:
        """Return the coefficient to apply after an optimiser step whose mean entropy per token this was.

        Raises:
            ValueError: it is NaN.
        """
        if math.isnan(mean_entropy):
            raise ValueError("mean_entropy is nan; expected nats per token")
        step = self.step if mean_entropy <= self.target else -self.step
        self.coefficient = min(max(self.coefficient + step, self.least), self.most)
        self.last_entropy = mean_entropy
        return self.value
