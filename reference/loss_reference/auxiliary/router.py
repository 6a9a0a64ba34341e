"""Losses of the routers of a mixture of experts: even load, and logits that stay small."""

from __future__ import annotations

from typing import Final

import torch.nn.functional as F
from torch import Tensor

from loss_reference.contract import Contract, Field, Option
from loss_reference.interface import Batch, LossFunction, Outputs
from loss_reference.reduction import keep_active, mean_of_terms, row_weights
from loss_reference.registry import register
from loss_reference.settings import Setting
from loss_reference.shapes import require_shape
from loss_reference.supervised.z_loss import z_loss
from loss_reference.token_level import refine

__all__ = ["MoELoadBalanceLoss", "RouterZLoss", "moe_load_balance", "router_tokens"]

ROUTER: Final = Contract(
    family="auxiliary",
    level="token",
    normalizer="local",
    length_normalized=True,
    lower_bound=0.0,
    direction={"coefficient": +1},
    # Four experts: enough for any top_k of its options.
    fields={"router_logits": Field("logits", "B S L 4", trainable=True), "attention_mask": Field("mask", "B S")},
)


def router_tokens(batch: Batch, model_outputs: Outputs) -> tuple[Tensor, Tensor]:
    """Return (z, w): router logits [B, S, L, E], 0 where the weight is 0, and weights [B, S, L], alike in every layer.

    w = attention_mask * sample_mask; a mask that is not given counts as ones.

    Raises:
        KeyError: no ``router_logits``.
        ValueError: shapes that do not belong together.
    """
    z = model_outputs["router_logits"]
    require_shape("router_logits", z, ("B", "S", "L", "E"), "the score of each expert, by token and layer")
    rows = row_weights(batch, z)
    w = rows.unsqueeze(1).expand(z.shape[:2])
    mask = batch.get("attention_mask")
    if mask is not None:
        require_shape("attention_mask", mask, tuple(z.shape[:2]), "one entry per token")
        w = w * mask.detach().to(w)
    w = w.unsqueeze(-1).expand(z.shape[:3])
    return keep_active(z, w), w


def moe_load_balance(z: Tensor, w: Tensor, top_k: int = 2) -> Tensor:
    """Return E sum_i f_i P_i, a scalar: f_i the share of tokens sent to expert i, P_i its mean probability.

    Args:
        z: router logits [..., E]. Of equal ones the first experts are chosen.
        w: weights [...], those of f and P alike.
        top_k: experts per token, at most E. The f_i add up to it.
    """
    E = z.shape[-1]
    chosen = z.detach().argsort(dim=-1, descending=True, stable=True)[..., :top_k]
    load = F.one_hot(chosen, E).sum(dim=-2).to(z.dtype)
    tokens, count = w.unsqueeze(-1), w.sum().clamp(min=1.0)
    f = (tokens * load).flatten(end_dim=-2).sum(dim=0) / count
    P = (tokens * z.softmax(dim=-1)).flatten(end_dim=-2).sum(dim=0) / count
    return E * (f * P).sum()


@register("moe_load_balance")
class MoELoadBalanceLoss(LossFunction):
    """Load balance: L = c E sum_i f_i P_i, f_i the share of tokens sent to expert i of E, P_i its mean probability.

    Reads ``router_logits`` [B, S, L, E] of the model outputs, for L layers; optional ``attention_mask`` [B, S] and
    ``sample_mask`` [B], whose product weighs a token in f and P. The tokens of all layers are pooled, as in Hugging Face.
    A token goes to the ``top_k`` experts of the highest logits, so the f_i add up to ``top_k`` and L is c top_k at
    uniform probabilities (c with ``normalize_by_k``). At least 0, at most c E. Only P passes gradient on: f is constant,
    and the value jumps where a token changes its expert. f and P are those of this batch, so losses of microbatches do
    not add up.

    Config: ``coefficient`` c (1, at least 0); ``top_k`` (2, a whole number of at least 1); ``normalize_by_k`` (False, as
    in Hugging Face; True divides by top_k, as in Megatron).

    Raises:
        KeyError: no ``router_logits``.
        ValueError: shapes that do not belong together, fewer experts than ``top_k``.
        ConfigError: a setting out of range or unknown.

    Source: arXiv 2101.03961, eq. 4 to 6, for top_k = 1.
    """

    contract = refine(
        ROUTER,
        coupled=True,
        surrogate_gradient=True,
        options={
            "coefficient": Option(values=(0.0, 0.001, 1.0)),
            "top_k": Option(values=(1, 2)),
            "normalize_by_k": Option(values=(False, True)),
        },
    )
    coefficient = Setting(1.0, least=0.0)
    top_k = Setting(2, least=1)
    normalize_by_k = Setting(False)

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        z, w = router_tokens(batch, model_outputs)
        if z.shape[-1] < self.top_k:
            raise ValueError(f"router_logits has {z.shape[-1]} experts; top_k={self.top_k} needs as many at least")
        divisor = self.top_k if self.normalize_by_k else 1
        return self.coefficient * moe_load_balance(z, w, self.top_k) / divisor


@register("router_z_loss")
class RouterZLoss(LossFunction):
    """Router z-loss: L = c times the mean over tokens and layers of (log sum_i e^(z_i))^2.

    Reads ``router_logits`` z [B, S, L, E] of the model outputs, for L layers; optional ``attention_mask`` [B, S] and
    ``sample_mask`` [B], whose product weighs a token. At least 0, 0 where the exponentials add up to 1. The mean is over
    the weights of this batch. The router receives gradient: 2 c log Z softmax per term.

    Config: ``coefficient`` c (1, at least 0).

    Raises:
        KeyError: no ``router_logits``.
        ValueError: shapes that do not belong together.
        ConfigError: a setting out of range or unknown.

    Terms: ``z_loss``.

    Source: arXiv 2202.08906, eq. 5.
    """

    contract = refine(ROUTER, options={"coefficient": Option(values=(0.0, 0.001, 1.0))})
    coefficient = Setting(1.0, least=0.0)

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Tensor:
        z, w = router_tokens(batch, model_outputs)
        return mean_of_terms(z_loss(z, self.coefficient), w, count=None)
