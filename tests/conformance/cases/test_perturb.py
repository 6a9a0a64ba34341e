"""One rounding of every number, and no number out of its range."""

import torch

from loss_conformance.cases.case import Case
from loss_conformance.cases.perturb import perturbed, shifted
from loss_conformance.cases.slot import Schema, Slot

EPS = 2.0**-8


def _case(role: str, numbers: torch.Tensor, trainable: bool = True) -> Case:
    slot = Slot("argument", "x", role, role, ("B",), trainable=trainable)
    return Case(
        Schema((slot,)), {"x": numbers}, torch.ones(len(numbers), 2, dtype=torch.bool), torch.ones(len(numbers))
    )


def test_perturbed_moves_every_number_by_half_an_ulp_of_itself() -> None:
    x = torch.tensor([1.0, -3.0, 0.5])
    moved = perturbed(_case("values", x), 0, EPS).tensors["x"]
    torch.testing.assert_close((moved - x).abs(), x.abs() * EPS / 2, rtol=1e-4, atol=0.0)


def test_shifted_goes_up_then_down_then_both_ways() -> None:
    x = torch.linspace(-2, 2, 32)
    moves = [shifted(_case("values", x), seed, EPS).tensors["x"] - x for seed in (0, 1, 2)]
    assert bool((moves[0] > 0).all())
    assert bool((moves[1] < 0).all())
    assert 0 < int((moves[2] > 0).sum()) < 32


def test_shifted_leaves_constants_and_log_probabilities_legal() -> None:
    lp = torch.tensor([0.0, -1e-6, -2.0])
    assert bool((shifted(_case("logprobs", lp), 0, EPS).tensors["x"] <= 0).all())
    assert torch.equal(shifted(_case("values", lp, trainable=False), 0, EPS).tensors["x"], lp)
