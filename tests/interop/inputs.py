"""Inputs of comparisons: drawn once, read by a loss of this package and, through an adapter, by a library's."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

B, S, V, D, PROMPT = 6, 9, 7, 5, 2


@dataclass
class Inputs:
    """What both sides are given.

    ``leaves`` receive gradient; ``batch`` and ``outputs`` are the two mappings a loss of ours reads; ``given`` holds the
    same numbers in forms that only adapters read.
    """

    leaves: dict[str, Tensor]
    batch: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    given: SimpleNamespace = field(default_factory=SimpleNamespace)

    def __getattr__(self, name: str) -> Any:
        for where in ("leaves", "batch"):
            if name in vars(self).get(where, {}):
                return vars(self)[where][name]
        return getattr(vars(self).get("given"), name)


class Draw:
    """Random tensors of one dtype, the same numbers for the same seed."""

    def __init__(self, dtype: torch.dtype, seed: int) -> None:
        self.dtype, self.generator = dtype, torch.Generator().manual_seed(seed)

    def normal(self, *shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(*shape, dtype=torch.float64, generator=self.generator)).to(self.dtype)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        x = torch.rand(*shape, dtype=torch.float64, generator=self.generator)
        return (low + (high - low) * x).to(self.dtype)

    def whole(self, low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=self.generator)


def next_logprobs(logits: Tensor, input_ids: Tensor) -> Tensor:
    """Return [B, S-1]: the log-probability of every token but the first, by PyTorch's own log-softmax."""
    return logits[:, :-1].log_softmax(dim=-1).gather(-1, input_ids[:, 1:].unsqueeze(-1)).squeeze(-1)


def token_aligned(logprobs: Tensor) -> Tensor:
    """Return [B, S] of [B, S-1]: entry t speaks of token t, entry 0 means nothing."""
    return F.pad(logprobs, (1, 0))


def sequences(dtype: torch.dtype, seed: int) -> Inputs:
    """Six answers after prompts: policy, reference, old policy and teacher, ragged lengths, one hole in the mask."""
    draw = Draw(dtype, seed)
    logits = draw.normal(B, S, V, scale=1.5).requires_grad_()
    ids, position = draw.whole(0, V, B, S), torch.arange(S)
    start, lengths = draw.whole(PROMPT, PROMPT + 2, B), draw.whole(S - 3, S + 1, B)
    lengths[0], lengths[1] = S, S - 3  # so that never all rows are equally long
    mask = ((position >= start[:, None]) & (position < lengths[:, None])).to(dtype)
    mask[0, S - 3] = 0
    reference, teacher = draw.normal(B, S, V, scale=1.5), draw.normal(B, S, V, scale=1.5)
    advantages = draw.normal(B)
    lp = next_logprobs(logits.detach(), ids)
    batch = {
        "input_ids": ids,
        "input_lengths": lengths,
        "token_mask": mask,
        "reference_policy_logprobs": token_aligned(next_logprobs(reference, ids)),
        "prev_logprobs": token_aligned(lp + draw.normal(B, S - 1, scale=0.4)),
        "generation_logprobs": token_aligned(lp + draw.normal(B, S - 1, scale=0.4)),
        "advantages": advantages.unsqueeze(1).expand(B, S).contiguous(),
        "teacher_logits": teacher,
        "labels": torch.tensor([1, 0, 0, 1, 1, 0]),
        "rewards": draw.normal(B),
    }
    given = SimpleNamespace(reference_logits=reference, row_advantages=advantages, m=mask[:, 1:])
    inputs = Inputs({"logits": logits}, batch, {"logits": logits}, given)
    given.attention_mask = (position < lengths[:, None]).long()
    return inputs


def trained(inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    """Return the logits [N, V], teacher logits [N, V] and targets [N] of the trained tokens."""
    m = inputs.m != 0
    return inputs.logits[:, :-1][m], inputs.teacher_logits[:, :-1][m], inputs.input_ids[:, 1:][m]


def labels(inputs: Inputs) -> Tensor:
    """Return [B, S] labels of the tokens themselves, -100 where nothing is trained."""
    return torch.where(inputs.token_mask != 0, inputs.input_ids, -100)


def near_reference(dtype: torch.dtype, seed: int) -> Inputs:
    """Return ``sequences`` of a policy that has not moved far from its reference, as in training."""
    inputs, draw = sequences(dtype, seed), Draw(dtype, 200 + seed)
    lp = next_logprobs(inputs.logits.detach(), inputs.input_ids)
    inputs.batch["reference_policy_logprobs"] = token_aligned(lp + draw.normal(B, S - 1, scale=0.4))
    return inputs


def embeddings(dtype: torch.dtype, seed: int) -> Inputs:
    """Eight labelled vectors of three classes."""
    draw = Draw(dtype, seed)
    e = draw.normal(8, D).requires_grad_()
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    return Inputs({"embeddings": e}, {"labels": labels}, {"embeddings": e})


def views(*names: str) -> Any:
    """Return a draw of several vectors per row, named as the model outputs they are."""

    def drawn(dtype: torch.dtype, seed: int) -> Inputs:
        draw = Draw(dtype, seed)
        leaves = {name: draw.normal(B, D).requires_grad_() for name in names}
        return Inputs(leaves, {}, dict(leaves))

    return drawn


def scores(dtype: torch.dtype, seed: int) -> Inputs:
    """Six scores of a reward model, and what they are compared with."""
    draw = Draw(dtype, seed)
    r = draw.normal(B, scale=2.0).requires_grad_()
    batch = {
        "margin": draw.uniform(B),
        "preference_probability": draw.uniform(B),
        "scores": draw.normal(B),
        "rewards": draw.normal(B),
        "labels": torch.tensor([1, 0, 0, 1, 1, 0]),
    }
    return Inputs({"rewards": r}, batch, {"rewards": r})


def values(dtype: torch.dtype, seed: int) -> Inputs:
    """Predictions of a critic, its old ones and the returns."""
    draw = Draw(dtype, seed)
    v = draw.normal(B, S).requires_grad_()
    mask = (torch.arange(S) < draw.whole(S - 3, S + 1, B)[:, None]).to(dtype)
    batch = {"values": v.detach() + draw.normal(B, S, scale=0.4), "returns": draw.normal(B, S), "token_mask": mask}
    return Inputs({"predicted": v}, batch, {"values": v})
