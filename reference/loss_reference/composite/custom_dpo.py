"""DPO plus a component of your own."""

from __future__ import annotations

from torch import Tensor

from loss_reference.composite.combine import split_result
from loss_reference.composite.promises import refined
from loss_reference.contract import Option
from loss_reference.interface import Batch, Outputs
from loss_reference.logprobs import trained_logprobs
from loss_reference.pairs import mean_of_pairs, split_pairs
from loss_reference.parts import with_part
from loss_reference.preference.dpo import DPOLoss
from loss_reference.reduction import row_weights
from loss_reference.registry import register
from loss_reference.settings import Setting

__all__ = ["CustomDPOLoss", "custom_dpo", "mean_nll"]


def custom_dpo(preference: Tensor, component: Tensor, weight: float = 1.0) -> Tensor:
    """Return L_dpo + w C, each of them 0-dim or one term per pair; L_dpo alone for a weight w of 0."""
    return with_part(preference, weight, component)


def mean_nll(lp: Tensor, trained: Tensor) -> Tensor:
    """Return -(1 / n) sum_t lp, one term per answer, over its n trained tokens; 0 where there are none.

    Args:
        lp: log-probabilities [N, S-1].
        trained: 1 or 0 [N, S-1], whether a token is trained.
    """
    return -(lp * trained).sum(dim=1) / trained.sum(dim=1).clamp(min=1.0)


@register("custom", "dpo_plus_component")
class CustomDPOLoss(DPOLoss):
    """DPO plus a component: L = L_dpo + w C, where a subclass may define C in ``compute_custom_component``.

    Without a subclass, C is the mean over pairs of -(1 / n_w) sum_t m lp of the chosen row, as in iterative RPO. Reads
    what ``DPOLoss`` reads, and what C reads. C is a 0-dim tensor with its own normaliser; the sum of microbatches
    is the whole only if C is divided by ``global_valid_*`` too. Range: that of L_dpo (at least 0) plus that of w C.
    The gradient is grad L_dpo + w grad C; affine in w. With w = 0 the component is not evaluated and the result is
    ``DPOLoss`` bit for bit, even where C is NaN.

    Config: ``custom_weight`` w (1.0, any finite number), and the settings of ``DPOLoss``.

    Raises:
        ValueError: C is not a 0-dim tensor, and whatever ``DPOLoss`` raises.
        ConfigError: a setting out of range or unknown.

    Terms: ``custom_dpo``.

    Source: the guide's CustomDPOLoss; RPO (arXiv 2404.19733) and MPO (2411.10442) are of this form.
    """

    contract = refined(
        DPOLoss.contract,
        lower_bound=float("-inf"),
        direction={},
        options={**DPOLoss.contract.options, "custom_weight": Option(values=(0.0, 1.0), reduces_to={0.0: "dpo"})},
    )
    custom_weight = Setting(1.0)

    def compute_custom_component(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        """Return the component C, a 0-dim tensor attached to the graph. Here the NLL of the chosen rows, per token."""
        lp, m = trained_logprobs(batch, model_outputs)
        chosen, _ = split_pairs((m != 0).to(lp))
        return mean_of_pairs(mean_nll(split_pairs(lp)[0], chosen), row_weights(batch, lp), batch)

    def paired_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        loss = super().paired_loss(batch, model_outputs)
        if self.custom_weight == 0:
            return loss
        return custom_dpo(loss, self._scalar_component(batch, model_outputs), self.custom_weight)

    def components(self, batch: Batch, model_outputs: Outputs) -> dict[str, Tensor]:
        """Return ``{"dpo": L_dpo, "custom": w C}``, which add up to the loss; without ``"custom"`` when w = 0."""
        pairs = self.as_pairs(batch, model_outputs)
        parts = {"dpo": super().paired_loss(*pairs)}
        if self.custom_weight != 0:
            parts["custom"] = self.custom_weight * self._scalar_component(*pairs)
        return parts

    def _scalar_component(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        return split_result("custom", self.compute_custom_component(batch, model_outputs))[0]
