"""Squared error of a critic that may move only so far from its old prediction."""

from __future__ import annotations

import torch
from torch import Tensor

from loss_reference.contract import Option
from loss_reference.interface import Batch, Outputs
from loss_reference.logprobs import token_constant
from loss_reference.reduction import keep_active, token_weights
from loss_reference.registry import register
from loss_reference.settings import Setting
from loss_reference.shapes import require_shape
from loss_reference.token_level import refine
from loss_reference.value.value_mse import ValueMSELoss, value_mse

__all__ = ["ValueClippedLoss", "value_clipped"]


def value_clipped(v: Tensor, R: Tensor, v_old: Tensor, clip: float = 0.2) -> Tensor:
    """Return max((v - R)^2, (clip(v, v_old - clip, v_old + clip) - R)^2) / 2 per token.

    A prediction exactly on a bound has the full gradient; beyond it none where the clipped error is the larger one.
    """
    return torch.maximum(value_mse(v, R), value_mse(torch.clamp(v, v_old - clip, v_old + clip), R))


@register("value_clipped")
class ValueClippedLoss(ValueMSELoss):
    """Clipped value loss: L = scale sum m max((v - R)^2, (clip(v, v_old - c, v_old + c) - R)^2) / (2 T_g).

    Reads the predicted ``values`` [B, S] of the model outputs, the old ``values`` [B, S] of the batch, ``returns`` and
    ``token_mask`` [B, S]; optional ``sample_mask`` [B], ``global_valid_toks``. Entry t speaks of token t. Result in
    squared units of the return, never below ``ValueMSELoss``, equal to it at v = v_old and for c to infinity. It is 0 at
    v = R where |R - v_old| <= c alone: further off the clipped error (|R - v_old| - c)^2 / 2 is left, its smallest value
    there. Only the predicted values receive gradient: dL/dv = scale m (v - R) / T_g, 0 where the clipped error is the larger
    one and v is beyond its bound.

    Config: that of ``ValueMSELoss`` and ``value_clip`` c (0.2, above 0; TRL and torchtune; verl and OpenRLHF 0.5; NeMo RL
    does not clip unless told to, ``value_mse``).

    ============ ================== ========== ==================
    to reproduce ``value_clip``     ``scale``  ``normalizer``
    ============ ================== ========== ==================
    NeMo RL      as set             1          ``"global"``
    OpenRLHF     0.5                1          ``"global"``
    verl         0.5                1          ``"local_or_nan"``
    TRL          0.2                0.1        ``"local_or_nan"``
    torchtune    0.2                0.1        ``"local"``
    ============ ================== ========== ==================

    Raises:
        ValueError: shapes that do not belong together.
        ConfigError: a setting out of range or unknown.

    Source: OpenAI baselines ``ppo2``; NeMo RL ``MseValueLossFn``.
    """

    contract = refine(
        ValueMSELoss.contract,
        direction={"scale": +1, "value_clip": -1},
        options={
            **ValueMSELoss.contract.options,
            "value_clip": Option(values=(0.1, 0.2, 1e9), reduces_to={1e9: "value_mse"}),
        },
    )
    value_clip = Setting(0.2, above=0.0)

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        values = model_outputs["values"]
        require_shape("values", values, tuple(batch["token_mask"].shape), "that of token_mask")
        m = token_weights(batch, values[:, 1:])
        v = keep_active(values[:, 1:], m)
        R, v_old = token_constant(batch, "returns", m), token_constant(batch, "values", m)
        return self.reduce(value_clipped(v, R, v_old, self.value_clip), m, batch)
