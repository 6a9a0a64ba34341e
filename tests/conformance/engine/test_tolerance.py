"""Tolerances grow with what rounding grows with, and stop where a law would say nothing."""

import pytest
import torch

from loss_conformance.cases.case import Case
from loss_conformance.cases.slot import Schema, Slot
from loss_conformance.evaluation import Evaluation
from loss_conformance.tolerance import (
    LARGEST_RELATIVE,
    OPERATIONS_PER_TERM,
    Tolerance,
    gradient_tolerance,
    value_tolerance,
)

EPS = torch.finfo(torch.float32).eps
X = Slot("batch", "x", "values", "values", ("N",))


def case(terms: int = 8, largest: float = 1.0) -> Case:
    x = torch.linspace(-largest, largest, terms, dtype=torch.float64)
    return Case(Schema((X,)), {X.key: x}, torch.zeros(1, 1, dtype=torch.bool), torch.ones(1))


def of_value(value: float = 0.0, sensitivity: float = 0.0, terms: int = 8, eps: float = EPS) -> Tolerance:
    measured = {X.key: (torch.tensor([1.0, 1.0]), torch.tensor([-sensitivity, torch.inf]))}
    return value_tolerance(Evaluation(torch.tensor(value), measured=measured), case(terms), eps)


def of_gradient(
    largest: float = 1.0, usual: float = 0.0, reach: float = 1.0, terms: int = 8, eps: float = EPS
) -> Tolerance:
    return gradient_tolerance(torch.tensor([largest, 0.0]), case(terms, reach), eps, usual)


def test_a_value_of_nothing_may_be_off_by_the_rounding_of_intermediates_of_size_one() -> None:
    assert of_value(0.0).bound == pytest.approx((8 + OPERATIONS_PER_TERM) * EPS, rel=1e-12)


def test_value_bounds_are_proportional_to_precision() -> None:
    assert of_value(eps=2 * EPS).bound == pytest.approx(2 * of_value(eps=EPS).bound, rel=1e-12)


def test_value_bounds_grow_with_the_terms() -> None:
    assert of_value(terms=800).bound / of_value(terms=8).bound == pytest.approx(832 / 40, rel=1e-12)


def test_value_bounds_grow_with_the_value_of_either_sign() -> None:
    assert of_value(-3.0).bound == of_value(3.0).bound == pytest.approx(4 * of_value(0.0).bound, rel=1e-12)


def test_value_bounds_grow_with_how_much_rounded_inputs_move_the_value() -> None:
    assert of_value(sensitivity=9.0).bound == pytest.approx(10 * of_value().bound, rel=1e-12)


def test_gradient_bounds_grow_with_gradient_inputs_terms_and_precision() -> None:
    plain = of_gradient().bound
    assert of_gradient(largest=5.0).bound == pytest.approx(5 * plain, rel=1e-12)
    assert of_gradient(reach=19.0).bound == pytest.approx(10 * plain, rel=1e-12)
    assert of_gradient(terms=88).bound == pytest.approx(3 * plain, rel=1e-12)
    assert of_gradient(eps=EPS / 2).bound == pytest.approx(plain / 2, rel=1e-12)


def test_where_a_gradient_cancels_its_usual_size_counts() -> None:
    assert of_gradient(largest=0.0).bound == 0.0
    assert of_gradient(largest=0.0, usual=2.0).bound == pytest.approx(2 * of_gradient().bound, rel=1e-12)
    assert of_gradient(largest=3.0, usual=2.0).bound == of_gradient(largest=3.0).bound


@pytest.mark.parametrize("eps", [torch.finfo(torch.bfloat16).eps, 1.0])
def test_no_bound_exceeds_a_twentieth_of_the_magnitude(eps: float) -> None:
    assert of_value(1.0, terms=10_000, eps=eps).bound == LARGEST_RELATIVE * 2.0
    assert of_gradient(4.0, terms=10_000, eps=eps).bound == LARGEST_RELATIVE * 8.0


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_a_value_that_is_not_finite_excuses_nothing(value: float) -> None:
    assert of_value(value).bound == of_value(0.0).bound
    assert of_gradient(value).bound == 0.0


def test_infinite_inputs_do_not_widen_a_gradient_bound() -> None:
    wide = case(8, 1.0)
    x = wide.tensors[X.key].clone()
    x[3] = float("-inf")
    gradient = torch.ones(2)
    assert gradient_tolerance(gradient, wide.with_tensors({X.key: x}), EPS) == gradient_tolerance(gradient, wide, EPS)


def test_in_words() -> None:
    assert str(of_value(1.0)) == "9.5e-06 (40 ulp float32 of 2, 8 terms)"
    assert str(of_value(1.0, eps=0.5)) == "1.0e-01 (40 ulp eps 5.0e-01 of 2, 8 terms)"
