"""Terms computed some positions at a time: the same numbers, and nothing in between kept for the backward pass."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from loss_reference import ForwardKLLoss, create_loss_function
from loss_reference.position_chunks import chunked_terms
from tests.reference.cases import case, value_and_gradient

DIVERGENCES = ("forward_kl", "reverse_kl", "mixed_kl", "soft_ce", "generalized_jsd", "skew_forward_kl", "tvd")


@pytest.mark.parametrize("chunk_size", [None, 1, 3, 100])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_divergences_do_not_depend_on_the_chunks(name: str, chunk_size: int | None) -> None:
    batch, outputs = case(5, source="logits", sample_mask="floats")
    whole = create_loss_function({"type": name, "temperature": 2.0})
    whole.learned = torch.nn.Parameter(torch.ones(()))  # what learns is compared as a whole
    wanted = value_and_gradient(whole, batch, outputs, "logits")
    chunked = create_loss_function({"type": name, "temperature": 2.0, "chunk_size": chunk_size})
    got = value_and_gradient(chunked, batch, outputs, "logits")
    torch.testing.assert_close(got[0], wanted[0], rtol=1e-14, atol=1e-15)
    torch.testing.assert_close(got[1], wanted[1], rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_content_that_is_not_trained_on_reaches_nothing(name: str) -> None:
    batch, outputs = case(6, source="logits")
    inactive = torch.ones_like(batch["token_mask"], dtype=torch.bool)
    inactive[:, :-1] = (batch["token_mask"] * batch["sample_mask"][:, None])[:, 1:] == 0
    function = create_loss_function({"type": name, "chunk_size": 2})
    wanted = value_and_gradient(function, batch, outputs, "logits")
    for tensors, field in ((batch, "teacher_logits"), (outputs, "logits")):
        tensors[field][inactive] = torch.nan
    got = value_and_gradient(function, batch, outputs, "logits")
    assert torch.equal(got[0], wanted[0])
    assert torch.equal(got[1], wanted[1])


class TiltedKLLoss(ForwardKLLoss):
    """A forward KL with a weight that is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.tilt = torch.nn.Parameter(torch.ones((), dtype=torch.float64))

    def divergence(self, log_p: Tensor, log_q: Tensor, /) -> Tensor:
        return self.tilt * super().divergence(log_p, log_q)


def test_what_a_divergence_learns_receives_gradient() -> None:
    batch, outputs = case(5, source="logits")
    function = TiltedKLLoss()
    value = function.compute_loss(batch, outputs)
    value.backward()  # type: ignore[no-untyped-call]
    assert function.tilt.grad is not None
    torch.testing.assert_close(function.tilt.grad, value.detach(), rtol=1e-14, atol=0.0)


def test_only_the_arguments_are_kept() -> None:
    scores, other = torch.randn(40, 50, requires_grad=True), torch.randn(40, 50)
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        chunked_terms(lambda x, y: (x.exp() * y.exp()).sum(dim=-1), scores, (other,), 7)
    pointers = {tensor.untyped_storage().data_ptr() for tensor in kept}
    assert pointers == {scores.untyped_storage().data_ptr(), other.untyped_storage().data_ptr()}


def test_a_chunk_size_is_a_whole_number() -> None:
    with pytest.raises(ValueError, match=r"ForwardKLLoss: chunk_size=2.5; expected a whole number, at least 1"):
        create_loss_function({"type": "forward_kl", "chunk_size": 2.5})
