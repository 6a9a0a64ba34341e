"""The losses of the policy-gradient family beyond PPO and its relatives: their cases, and what tests of all share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.reference.cases import Tensors
from tests.reference.policy_gradient.helpers import cases

FIELD = "next_token_logprobs"
WEIGHTED = ("tis", "icepop", "seq_truncate", "seq_mask", "seq_mask_tis")
CORRECTED = (*WEIGHTED, "off_policy_mask", "divergence_mask")
KL = ("kl_k1", "kl_k2", "kl_k3", "kl_abs", "kl_straight_through", "kl_unbiased")
READS: dict[str, set[str]] = {
    "rloo": {"prev_logprobs", "advantages"},
    "gpg": {"advantages"},
    "clip_cov": {"prev_logprobs", "advantages"},
    "kl_cov": {"prev_logprobs", "advantages"},
    "a2po": {"reference_policy_logprobs", "rewards", "v_star"},
    "vapo_nll": {"rewards"},
    **{name: {"reference_policy_logprobs"} for name in KL},
    "kl_unbiased": {"reference_policy_logprobs", "prev_logprobs"},
    **{name: {"prev_logprobs", "generation_logprobs", "advantages"} for name in CORRECTED},
    "entropy_bonus": set(),
}
NAMES = tuple(READS)


def further_case(seed: int, source: str = FIELD, **kwargs: Any) -> tuple[Tensors, Tensors]:
    """Return a case next to the old policy with every field these losses read; the outputs are the one of ``source``."""
    batch, outputs = cases(seed, close=source == FIELD, source=source, **kwargs)
    g = torch.Generator().manual_seed(1000 + seed)
    rows, width, dtype = *batch["prev_logprobs"].shape, batch["prev_logprobs"].dtype

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g, dtype=torch.float64).to(dtype)

    batch |= {
        "generation_logprobs": batch["prev_logprobs"] + 0.4 * normal(rows, width),
        "reference_policy_logprobs": batch["prev_logprobs"] + 0.5 * normal(rows, width),
        "rewards": normal(rows),
        "v_star": normal(rows),
        "selection_noise": torch.rand((rows, width), generator=g, dtype=torch.float64).to(dtype),
        "advantages": 2 * normal(rows, width),
    }
    if "global_valid_toks" in batch:
        batch["global_correct_toks"] = torch.tensor(13.0, dtype=dtype)
    return batch, {source: outputs[source]}


def source_of(name: str) -> str:
    return "logits" if name == "entropy_bonus" else FIELD
