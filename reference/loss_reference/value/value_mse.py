"""Mean squared error of the critic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from torch import Tensor

from loss_reference.contract import Contract, Option
from loss_reference.interface import Batch, LossFunction, Outputs
from loss_reference.logprobs import token_constant
from loss_reference.reduction import global_count, keep_active, mean_of_terms, token_weights
from loss_reference.registry import register
from loss_reference.settings import Setting
from loss_reference.shapes import require_shape
from loss_reference.token_level import refine

__all__ = ["ValueMSELoss", "value_mse"]

NORMALIZERS: Final = ("global", "local", "local_or_nan")


def value_mse(v: Tensor, R: Tensor) -> Tensor:
    """Return (v - R)^2 / 2 per token, for predicted value v and return R of the same shape."""
    return (v - R).square() / 2


@register("value_mse")
class ValueMSELoss(LossFunction):
    """Value loss: L = scale sum m (v - R)^2 / (2 T_g).

    Reads the predicted ``values`` [B, S] of the model outputs, ``returns`` and ``token_mask`` [B, S]; optional
    ``sample_mask`` [B], ``global_valid_toks``. Entry t of ``values`` and ``returns`` speaks of token t. Result in squared
    units of the return, at least 0, exactly 0 at v = R. Only the values receive gradient: dL/dv = scale m (v - R) / T_g.

    Config: ``scale`` (1, above 0; torchtune and TRL multiply by 0.1, their ``value_coeff`` and ``vf_coef``); ``normalizer``
    (``"global"``: divisor ``global_valid_toks`` where the batch has it, NeMo RL and OpenRLHF; ``"local"``: the number of
    trained tokens of *this* batch whatever it has, so that microbatches do not add up, torchtune; ``"local_or_nan"``:
    the same, and NaN where nothing is trained, verl and TRL).

    Raises:
        ValueError: shapes that do not belong together.
        ConfigError: a setting out of range or unknown.

    Source: arXiv 1707.06347, eq. 9, with the customary factor 1/2; NeMo RL ``MseValueLossFn``.
    """

    contract = Contract(
        family="value",
        level="token",
        normalizer="global",
        length_normalized=True,
        lower_bound=0.0,
        direction={"scale": +1},
        options={
            "scale": Option(values=(0.5, 1.0, 2.0)),
            "normalizer": Option(values=("global", "local")),  # the third differs on an empty batch alone
        },
    )
    scale = Setting(1.0, above=0.0)
    normalizer = Setting("global", choices=NORMALIZERS)

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        if self.normalizer != "global":
            empty = "zero" if self.normalizer == "local" else "nan"
            options = {**self.contract.options, "normalizer": Option(values=("global", self.normalizer))}
            self.contract = refine(self.contract, normalizer="local", empty=empty, options=options)

    def reduce(self, terms: Tensor, weights: Tensor, batch: Batch) -> Tensor:
        """Return scale times the mean of per-token terms [B, S-1]."""
        count = global_count(batch, "global_valid_toks")
        mean = self.scale * mean_of_terms(terms, weights, count if self.normalizer == "global" else None)
        return mean / (weights != 0).any() if self.normalizer == "local_or_nan" else mean

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        values = model_outputs["values"]
        require_shape("values", values, tuple(batch["token_mask"].shape), "that of token_mask")
        m = token_weights(batch, values[:, 1:])
        v = keep_active(values[:, 1:], m)
        R = token_constant(batch, "returns", m)
        return self.reduce(value_mse(v, R), m, batch)
