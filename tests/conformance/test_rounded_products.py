"""Products that move by one rounding, and nothing else that moves."""

import torch

from loss_conformance.rounded_products import OperationsSeen, RoundedProducts

EPS = torch.finfo(torch.bfloat16).eps


def test_a_product_moves_by_a_few_roundings_of_its_terms() -> None:
    a, b = torch.randn(5, 7, dtype=torch.float64), torch.randn(7, 3, dtype=torch.float64)
    with RoundedProducts(EPS, seed=1):
        moved = a @ b
    difference = (moved - a @ b).abs()
    assert bool((difference > 0).all())
    assert bool((difference <= 2 * EPS * (a.abs() @ b.abs())).all())


def test_the_directions_follow_from_the_seed() -> None:
    a = torch.randn(4, 4)
    results = []
    for seed in (1, 1, 2):
        with RoundedProducts(EPS, seed):
            results.append(a @ a)
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_what_is_no_product_stays() -> None:
    a = torch.randn(4, 4)
    with RoundedProducts(EPS, seed=1):
        assert torch.equal(a.exp().sum(), torch.exp(a).sum())


def test_a_gradient_passes_through() -> None:
    a = torch.randn(4, 4, requires_grad=True)
    with RoundedProducts(EPS, seed=1):
        value = (a @ a).sum()
    (gradient,) = torch.autograd.grad(value, [a])
    assert bool(torch.isfinite(gradient).all())


def test_operations_are_seen_by_name() -> None:
    with OperationsSeen() as seen:
        torch.nn.functional.binary_cross_entropy(torch.rand(3), torch.rand(3))
    assert "binary_cross_entropy" in seen.names
