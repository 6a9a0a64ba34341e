"""Pairs with log-ratios, log-probabilities and rewards of one's choice, and the losses they are given to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from loss_reference import registry
from tests.reference.cases import Tensors, value_and_gradient

ONLY_DELTA = ("cdpo", "robust_dpo", "hinge_dpo", "ipo", "dpo_norm", "exo_pair", "discopop", "ld_dpo", "r_dpo")
SORTED = ("aot", "aot_unpaired")
REWARD_AWARE = ("rpo_sq", "rpo_fwd_kl", "rpo_bwd_kl", "rebel", "odpo")
F_DIVERGENCES = ("fdpo_forward_kl", "fdpo_js", "fdpo_alpha")
ANCHORED = ("nca_pair", "bco_pair", "sppo_hard", "apo_zero", "apo_down", "cal_dpo", "dpop")
REFERENCE_FREE = ("orpo", "cpo", "simpo", "alphapo", "slic_hf")
ABSOLUTE = F_DIVERGENCES + ANCHORED
NEW_LOSSES = ONLY_DELTA + SORTED + REWARD_AWARE + ABSOLUTE + REFERENCE_FREE


def pairs(
    h_w: Sequence[float],
    h_l: Sequence[float],
    *,
    p_w: float = -1.0,
    p_l: float = -1.0,
    gap: float = 0.0,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensors, Tensors]:
    """Return pairs of answers of one token: their log-ratios, log-probabilities, and how much more the chosen is worth."""
    n = len(h_w)
    h = torch.tensor([h_w, h_l], dtype=dtype).T.reshape(2 * n, 1)
    lp = torch.tensor([p_w, p_l] * n, dtype=dtype).unsqueeze(1)
    batch = {
        "input_ids": torch.zeros(2 * n, 2, dtype=torch.long),
        "token_mask": torch.tensor([[0.0, 1.0]] * (2 * n), dtype=dtype),
        "reference_policy_logprobs": torch.cat([torch.zeros_like(h), lp - h], dim=1),
        "rewards": torch.tensor([gap, 0.0] * n, dtype=dtype),
    }
    return batch, {"next_token_logprobs": lp}


def at(name: str, h_w: float, h_l: float, config: dict[str, Any] | None = None, **kwargs: Any) -> tuple[float, Tensor]:
    """Return the loss of one pair, and its gradient with respect to the chosen and the rejected log-probability."""
    batch, outputs = pairs([h_w], [h_l], **kwargs)
    value, gradient = value_and_gradient(registry.create(name, config), batch, outputs, "next_token_logprobs")
    return value.item(), gradient.flatten()
