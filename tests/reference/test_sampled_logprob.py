"""The log-probability of the sampled token: the numbers of log-softmax-then-gather, without what that keeps alive."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from loss_reference.sampled_logprob import sampled_logprob

ROWS, POSITIONS, VOCABULARY = 3, 5, 7


def case(seed: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(ROWS, POSITIONS, VOCABULARY, generator=g, dtype=torch.float64)
    targets = torch.randint(VOCABULARY, (ROWS, POSITIONS), generator=g)
    active = torch.rand(ROWS, POSITIONS, generator=g) < 0.7
    return logits.to(dtype), targets, active


def plain(logits: Tensor, targets: Tensor, active: Tensor) -> Tensor:
    log_pi = logits.log_softmax(dim=-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return torch.where(active, log_pi, 0.0)


@pytest.mark.parametrize("chunk_size", [None, 1, 4, 15, 100])
@pytest.mark.parametrize("seed", range(3))
def test_value_and_gradient_are_those_of_log_softmax(seed: int, chunk_size: int | None) -> None:
    logits, targets, active = case(seed)
    mine, theirs = (logits.clone().requires_grad_() for _ in range(2))
    upstream = torch.randn(ROWS, POSITIONS, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    got, wanted = sampled_logprob(mine, targets, active, chunk_size), plain(theirs, targets, active)
    got.backward(upstream)  # type: ignore[no-untyped-call]
    wanted.backward(upstream)  # type: ignore[no-untyped-call]
    assert mine.grad is not None
    assert theirs.grad is not None
    torch.testing.assert_close(got, wanted, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("content", [float("nan"), float("inf"), float("-inf")])
def test_inactive_positions_reach_nothing(content: float) -> None:
    logits, targets, active = case(1)
    logits[~active] = content
    logits.requires_grad_()
    lp = sampled_logprob(logits, targets, active)
    lp.sum().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert bool(torch.isfinite(lp).all())
    assert bool(torch.isfinite(logits.grad).all())
    assert not bool(logits.grad[~active].any())
    assert not bool(lp[~active].any())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    logits, targets, active = case(2, dtype)
    got = sampled_logprob(logits, targets, active)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, plain(logits.float(), targets, active), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_kept_for_the_backward_pass(dtype: torch.dtype) -> None:
    logits, targets, active = case(3, dtype)
    logits.requires_grad_()
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        sampled_logprob(logits, targets, active)
    as_large = [tensor for tensor in kept if tensor.numel() >= logits.numel()]
    assert {tensor.untyped_storage().data_ptr() for tensor in as_large} == {logits.untyped_storage().data_ptr()}


def test_impossible_tokens() -> None:
    logits, targets, active = case(4)
    logits[..., 0] = -torch.inf
    targets = torch.where(targets == 0, 1, targets)
    logits.requires_grad_()
    sampled_logprob(logits, targets, active).sum().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert bool(torch.isfinite(logits.grad).all())
    assert not bool(logits.grad[..., 0].any())


def test_no_positions_at_all() -> None:
    logits = torch.zeros(2, 0, 4, requires_grad=True)
    lp = sampled_logprob(logits, torch.zeros(2, 0, dtype=torch.long), torch.zeros(2, 0, dtype=torch.bool))
    assert tuple(lp.shape) == (2, 0)
