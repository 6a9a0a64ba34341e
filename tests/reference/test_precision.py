"""Every registered loss in float32, bfloat16 and float16: how far from float64, and that half precision is widened first."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch

from loss_conformance.bench import Bench
from loss_conformance.cases.case import Case
from loss_conformance.cases.off_ties import off_ties
from loss_conformance.copying import copy_of
from loss_conformance.engine import Engine
from loss_conformance.evaluation import Evaluation, evaluate
from loss_conformance.subject.load import load_subject
from tests.conformance.checks.every_reference import CONFIGS, LOSSES

ULPS = 16
"""Stated bound: the float32 value is within 16 units of roundoff of |L| + sum |x dL/dx|, the size of what is added up."""
GRADIENT_ULPS = 64
"""An entry of the gradient is a product of several such sums: within 64 units of the largest entry there usually is."""
ORDINARY = ("typical", "full", "holes", "off_policy")
CASES = 1


@cache
def bench(loss: type) -> Bench:
    engine = Engine(load_subject(loss, config=CONFIGS.get(loss.__name__)), profile="quick")
    engine.bench.pool = engine.pool
    return engine.bench


def cases(loss: type) -> Iterator[Case]:
    table = bench(loss)
    for situation in ORDINARY:
        for route, plan in enumerate(table.pool[situation][:CASES]):
            # Beside ties and kinks, where a rounding decides which of two slopes holds.
            yield off_ties(table.case(plan, route % len(table.schemas), torch.float64))


def called(loss: type, case: Case) -> Evaluation:
    """Call the loss as it is: its own parameters and buffers keep their float32."""
    subject = bench(loss).subject
    return evaluate(subject.protocol, copy_of(subject.loss), case)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_float32_is_within_the_stated_ulps_of_float64(loss: type) -> None:
    eps = torch.finfo(torch.float32).eps
    evaluate_at: Any = bench(loss).caller.evaluate
    usual: dict[str, float] = {}
    found = [(evaluate_at(case), evaluate_at(case, dtype=torch.float32)) for case in cases(loss)]
    for exact, _ in found:
        for key, gradient in exact.gradients.items():
            usual[key] = max(usual.get(key, 0.0), float(gradient.abs().amax()))
    for exact, got in found:
        assert got.dtype is torch.float32
        bound = ULPS * eps * (float(exact.value.abs()) + exact.sensitivity + max(usual.values(), default=0.0))
        assert abs(float(got.value) - float(exact.value)) <= bound
        for key, gradient in exact.gradients.items():
            difference = (got.gradients[key].to(torch.float64) - gradient).abs().amax()
            assert float(difference) <= GRADIENT_ULPS * eps * usual[key], key


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_half_precision_is_computed_in_float32(loss: type, dtype: torch.dtype) -> None:
    """The same numbers handed over in half precision and in float32 give the same loss, but for float32 rounding."""
    eps = torch.finfo(torch.float32).eps
    for case in cases(loss):
        half = case.cast(dtype)
        widened = called(loss, half.cast(torch.float32))
        got = called(loss, half)
        assert got.dtype is torch.float32
        if bool(torch.isfinite(widened.value)):
            bound = ULPS * eps * (float(widened.value.abs()) + widened.sensitivity)
            assert abs(float(got.value) - float(widened.value)) <= bound
        else:
            assert not bool(torch.isfinite(got.value))


@pytest.mark.parametrize("situation", ["saturated", "certain", "never_chosen", "ties"])
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_float32_is_finite_at_the_extremes(loss: type, situation: str) -> None:
    table = bench(loss)
    for route, plan in enumerate(table.pool[situation][:CASES]):
        case = table.case(plan, route % len(table.schemas), torch.float64)
        got = table.caller.evaluate(case, dtype=torch.float32)
        exact = table.caller.evaluate(case)
        assert bool(torch.isfinite(got.value)) or not bool(torch.isfinite(exact.value))
        assert all(bool(torch.isfinite(gradient).all()) for gradient in got.gradients.values())
