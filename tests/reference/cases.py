"""Random cases in the batch vocabulary, and the helpers the tests of the reference losses share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from loss_reference import LossFunction, ModelOutputs, registry

Tensors = dict[str, Tensor]

TOKEN_LOSSES = ("nll", "ppo_clip", "grpo", "value_mse", "forward_kl", "reverse_kl", "mixed_kl")
PAIR_LOSSES = ("bradley_terry", "dpo")
CONTRASTIVE_LOSSES = ("pairwise_contrastive", "infonce")
ALL_LOSSES = TOKEN_LOSSES + PAIR_LOSSES + CONTRASTIVE_LOSSES

READS_LOGPROBS = ("nll", "ppo_clip", "grpo", "dpo")
TRAINABLE = {
    "value_mse": "values",
    "bradley_terry": "rewards",
    "pairwise_contrastive": "embeddings",
    "infonce": "embeddings",
}


def case(
    seed: int,
    *,
    rows: int = 4,
    width: int = 6,
    vocabulary: int = 5,
    pairs: int = 5,
    sample_mask: str | None = "zeros",
    counts: bool = False,
    source: str = "next_token_logprobs",
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensors, Tensors]:
    """Return a batch and model outputs with every field of the vocabulary; ``source`` of the logprobs is the one given."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)

    def logprobs(*shape: int) -> Tensor:
        return -normal(*shape).abs() - 0.1

    K = 3
    batch = {
        "input_ids": torch.randint(vocabulary, (rows, width), generator=g),
        "token_mask": (torch.rand(rows, width, generator=g) < 0.6).to(dtype),
        "reference_policy_logprobs": logprobs(rows, width),
        "prev_logprobs": logprobs(rows, width),
        "advantages": normal(rows, width),
        "returns": normal(rows, width),
        "teacher_logits": normal(rows, width, vocabulary),
        "teacher_topk_logits": normal(rows, width, K),
        "teacher_topk_indices": torch.rand(rows, width, vocabulary, generator=g).argsort(-1)[..., :K],
        "positive_pairs": torch.randint(rows, (pairs, 2), generator=g),
        "negative_pairs": torch.randint(rows, (pairs, 2), generator=g),
    }
    batch["token_mask"][0, 1:] = 0  # a row without any trained token
    batch["token_mask"][1, 2] = 1  # and one that has at least one
    if sample_mask == "zeros":
        batch["sample_mask"] = torch.ones(rows, dtype=dtype)
        batch["sample_mask"][2] = 0
    elif sample_mask == "floats":
        batch["sample_mask"] = torch.rand(rows, generator=g, dtype=torch.float64).to(dtype) * 2
        batch["sample_mask"][2] = 0
    if counts:
        batch["global_valid_toks"] = torch.tensor(29.0, dtype=dtype)
        batch["global_valid_seqs"] = torch.tensor(11.0, dtype=dtype)
    outputs = {
        "values": normal(rows, width),
        "rewards": normal(rows),
        "embeddings": normal(rows, 3),
        source: logprobs(rows, width - 1) if source == "next_token_logprobs" else normal(rows, width, vocabulary),
    }
    return batch, outputs


def case_for(name: str, seed: int, **kwargs: Any) -> tuple[Tensors, Tensors]:
    """Return a case whose source of logprobs is what the loss can read."""
    return case(seed, source="next_token_logprobs" if name in READS_LOGPROBS else "logits", **kwargs)


def trainable(name: str, outputs: Mapping[str, Tensor]) -> str:
    """Return the name of the model output that the loss trains."""
    return TRAINABLE.get(name) or ("logits" if "logits" in outputs else "next_token_logprobs")


def value_and_gradient(
    loss: LossFunction | str, batch: Mapping[str, Tensor], outputs: Mapping[str, Tensor], field: str
) -> tuple[Tensor, Tensor]:
    """Return the loss and its gradient with respect to ``outputs[field]``."""
    function = registry.create(loss) if isinstance(loss, str) else loss
    leaves = ModelOutputs(
        {name: x.detach().clone().requires_grad_(x.is_floating_point()) for name, x in outputs.items()}
    )
    value = function.compute_loss(batch, leaves)
    assert isinstance(value, Tensor)
    (gradient,) = torch.autograd.grad(value, leaves[field])
    return value.detach(), gradient


def rows_of(tensors: Mapping[str, Tensor], start: int, stop: int) -> Tensors:
    """Return some rows of every tensor that has rows."""
    return {name: x if x.dim() == 0 else x[start:stop] for name, x in tensors.items()}
