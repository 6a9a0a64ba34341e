"""The policy-gradient losses and the clipped value loss: what the tests about all of them share."""

from __future__ import annotations

from typing import Any

import torch

from loss_reference import LossFunction, registry
from tests.reference.cases import Tensors, case

POLICY = (
    "ppo_dual_clip",
    "dapo",
    "dr_grpo",
    "bnpo",
    "reinforce",
    "on_policy",
    "cispo",
    "sapo",
    "gspo",
    "gspo_token",
    "luspo",
    "gmpo",
    "vespo",
)
NAMES = (*POLICY, "value_clipped")
CONFIG: dict[str, dict[str, Any]] = {"dr_grpo": {"max_length": 8.0}}
SURROGATES = {"cispo", "vespo", "gspo_token", "on_policy"}


def create(name: str, **config: Any) -> LossFunction:
    return registry.create(name, CONFIG.get(name, {}) | config)


def trains(name: str, outputs: Tensors) -> str:
    if name == "value_clipped":
        return "values"
    return "logits" if "logits" in outputs else "next_token_logprobs"


def cases(seed: int, close: bool = False, **kwargs: Any) -> tuple[Tensors, Tensors]:
    """Return a case with old values; ``close`` puts the policy next to the old one, where sequence ratios matter."""
    batch, outputs = case(seed, **kwargs)
    g = torch.Generator().manual_seed(seed)
    shape, dtype = batch["returns"].shape, batch["returns"].dtype
    batch["values"] = outputs["values"] + torch.randn(shape, generator=g, dtype=torch.float64).to(dtype)
    if close:
        moved = 0.3 * torch.randn(shape, generator=g, dtype=torch.float64).to(dtype)
        batch["prev_logprobs"] = torch.cat([moved[:, :1], outputs["next_token_logprobs"] + moved[:, 1:]], dim=1)
    return batch, outputs
