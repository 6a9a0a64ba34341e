"""Every declared value of every option, one at a time: float32 near float64, and half precision widened first."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import cycle
from typing import Any

import pytest
import torch

from loss_conformance.bench import Bench
from loss_conformance.cases.case import Case
from loss_conformance.cases.off_ties import off_ties
from loss_conformance.engine import Engine
from loss_conformance.evaluation import LossRaised
from loss_conformance.evaluation import evaluate as call
from loss_conformance.subject.load import load_subject
from loss_reference import ConfigError, LossFunction
from loss_reference.settings import settings_of
from tests.conformance.checks.every_reference import CONFIGS, LOSSES
from tests.reference.companions import read_at
from tests.reference.test_precision import GRADIENT_ULPS, ULPS

EPS = torch.finfo(torch.float32).eps
SITUATIONS = ("off_policy", "holes")
"""Off policy clips, clamps and corrections act."""
SMALLEST = 1e-12
"""A gradient in float64 that is no larger is what rounding leaves of terms that cancel, or 0 where all rest on a clamp."""


def configs(loss: type[LossFunction]) -> Iterator[dict[str, Any]]:
    """Yield every declared value of every option that is not the default, with what it needs to be read."""
    base = CONFIGS.get(loss.__name__, {})
    settings = {setting.key: setting for setting in settings_of(loss).values()}
    for key, option in loss(base).contract.options.items():
        for value in option.values:
            config = {**base, **read_at(loss, key, value)}
            if value == settings[key].default or config == base:
                continue
            try:
                loss(config)
            except ConfigError:  # not legal beside the defaults
                continue
            yield config


@cache
def usual_bench(loss: type[LossFunction]) -> Bench:
    return bench_with(loss, CONFIGS.get(loss.__name__, {}))


def bench_with(loss: type[LossFunction], config: dict[str, Any]) -> Bench:
    engine = Engine(load_subject(loss, config=config), profile="quick")
    engine.bench.pool = engine.pool
    return engine.bench


def cases(table: Bench) -> list[Case]:
    plans = [plan for situation in SITUATIONS for plan in table.pool[situation][:1]]
    return [off_ties(table.case(plan, i % len(table.schemas), torch.float64)) for i, plan in enumerate(plans)]


def size(usual: float) -> float:
    """Return what a rounding is measured by: the largest entry there usually is, or 1 where there is none to speak of."""
    return usual if usual > SMALLEST else 1.0


def fed(loss: type[LossFunction], config: dict[str, Any]) -> tuple[Bench, list[Case], LossFunction]:
    """Return what feeds the loss so set up: the cases of its defaults, or its own where it reads more than they have."""
    made = loss(config)
    if made.contract.fields == loss(CONFIGS.get(loss.__name__, {})).contract.fields:
        table = usual_bench(loss)
        try:
            table.caller.evaluate(cases(table)[0], loss=made)
        except (LossRaised, ValueError):
            pass
        else:
            return table, cases(table), made
    table = bench_with(loss, config)
    return table, cases(table), made


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_precision_at_every_value_of_every_option(loss: type[LossFunction]) -> None:
    dtypes = cycle((torch.bfloat16, torch.float16))
    for config in configs(loss):
        table, drawn, made = fed(loss, config)
        evaluate: Any = table.caller.evaluate
        found = [(evaluate(case, loss=made), evaluate(case, loss=made, dtype=torch.float32)) for case in drawn]
        usual: dict[str, float] = {}
        for exact, _ in found:
            for key, gradient in exact.gradients.items():
                usual[key] = max(usual.get(key, 0.0), float(gradient.abs().amax()))
        for exact, got in found:
            assert got.dtype is torch.float32, config
            bound = ULPS * EPS * (float(exact.value.abs()) + exact.sensitivity + size(max(usual.values(), default=0.0)))
            assert abs(float(got.value) - float(exact.value)) <= bound, config
            for key, gradient in exact.gradients.items():
                difference = (got.gradients[key].to(torch.float64) - gradient).abs().amax()
                assert float(difference) <= GRADIENT_ULPS * EPS * size(usual[key]), (config, key)
        half, protocol = drawn[0].cast(next(dtypes)), table.subject.protocol
        # The loss as it is: its own parameters and buffers keep their float32.
        widened, got = (call(protocol, loss(config), each) for each in (half.cast(torch.float32), half))
        assert got.dtype is torch.float32, config
        if bool(torch.isfinite(widened.value)):
            bound = ULPS * EPS * (float(widened.value.abs()) + widened.sensitivity)
            assert abs(float(got.value) - float(widened.value)) <= bound, config
