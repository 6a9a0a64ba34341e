"""Slopes the formulas have in closed form, from far below the margin to far beyond it, and the straight ends in float32."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.reference.preference.helpers import at

Config = dict[str, Any]
HERE: list[tuple[float, float]] = [(-40.0, 3.0), (-2.0, 1.0), (0.0, 0.0), (0.3, -0.1), (2.5, 7.0), (30.0, -9.0)]
BETA = 0.7


def s(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def entropy(e: float) -> float:
    return -e * math.log(e) - (1 - e) * math.log(1 - e)


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def of_margin(config: Config, slope: Callable[[float], float]) -> tuple[Config, Callable[[float, float], Any]]:
    """Return the slopes of a loss of x = beta (h_w - h_l) alone: opposite ones, beta dl/dx and its negative."""

    def slopes(h_w: float, h_l: float) -> tuple[float, float]:
        along = BETA * slope(BETA * (h_w - h_l))
        return along, -along

    return {"beta": BETA, **config}, slopes


E = {"label_smoothing": 0.2}
SLOPES: list[tuple[str, tuple[Config, Callable[[float, float], Any]]]] = [
    ("dpo", of_margin({}, lambda x: -s(-x))),
    ("dpo", of_margin(E, lambda x: s(x) - 0.8)),
    ("cdpo", of_margin(E, lambda x: s(x) - 0.8)),
    ("robust_dpo", of_margin(E, lambda x: -(0.8 * s(-x) + 0.2 * s(x)) / 0.6)),
    ("hinge_dpo", of_margin({}, lambda x: -float(x < 1))),
    ("ipo", of_margin({}, lambda x: 2 * (x / BETA - 1 / (2 * BETA)) / BETA)),
    ("exo_pair", of_margin(E, lambda x: s(x) * s(-x) * (x - logit(0.8)))),
    ("rpo_sq", of_margin({}, lambda x: 2 * (x - 1.5))),
    ("rpo_fwd_kl", of_margin({}, lambda x: s(x) * s(-x) * (x - 1.5))),
    ("rpo_bwd_kl", of_margin({}, lambda x: s(x) - s(1.5))),
    ("rebel", ({"eta": 2.0}, lambda h_w, h_l: ((h_w - h_l) / 2 - 1.5, 1.5 - (h_w - h_l) / 2))),
    ("odpo", of_margin({}, lambda x: -s(1.5 - x))),
    ("nca_pair", ({"beta": BETA}, lambda h_w, h_l: (BETA * (1.5 * s(BETA * h_w) - 1), BETA * 0.5 * s(BETA * h_l)))),
    ("bco_pair", ({"beta": BETA}, lambda h_w, h_l: (-BETA * s(-BETA * h_w), BETA * s(BETA * h_l)))),
    ("sppo_hard", ({"beta": BETA}, lambda h_w, h_l: (2 * (h_w - 0.5 / BETA), 2 * (h_l + 0.5 / BETA)))),
    (
        "apo_zero",
        (
            {"beta": BETA},
            lambda h_w, h_l: (-BETA * s(BETA * h_w) * s(-BETA * h_w), BETA * s(BETA * h_l) * s(-BETA * h_l)),
        ),
    ),
]


@pytest.mark.parametrize(("h_w", "h_l"), HERE)
@pytest.mark.parametrize(("name", "stated"), SLOPES, ids=[f"{name}-{config}" for name, (config, _) in SLOPES])
def test_slope(name: str, stated: tuple[Config, Callable[[float, float], Any]], h_w: float, h_l: float) -> None:
    config, slopes = stated
    _, gradient = at(name, h_w, h_l, config, gap=1.5)
    # A difference such as sigma(x) - 0.8 keeps the roundings of its two terms, of order 1.
    assert gradient.tolist() == pytest.approx(list(slopes(h_w, h_l)), rel=1e-13, abs=4e-16)


STRAIGHT = ["dpo", "dpo_norm", "aot", "aot_unpaired", "ld_dpo", "r_dpo"]


@pytest.mark.parametrize("x", [100.0, 1e4, 1e6])
@pytest.mark.parametrize(("name", "config", "wrong", "right"), [
    *((name, {}, lambda x: x, lambda x: 0.0) for name in STRAIGHT),
    *((name, E, lambda x: 0.8 * x, lambda x: 0.2 * x) for name in ("dpo", "cdpo", "aot", "aot_unpaired")),
    ("robust_dpo", E, lambda x: 0.8 / 0.6 * x, lambda x: -0.2 / 0.6 * x),
    ("hinge_dpo", {}, lambda x: 1 + x, lambda x: 0.0),
    ("exo_pair", E, lambda x: -math.log(0.2), lambda x: -math.log(0.8)),  # a certain coin against a label of 0.8
    ("discopop", {}, lambda x: x, lambda x: 0.0),
    ("discopop", {"tau": 1.0}, lambda x: x + 1, lambda x: 0.0),  # w exp(-x) tends to 1 there
    ("odpo", {}, lambda x: x + 0.5, lambda x: 0.0),
    ("rpo_bwd_kl", {}, lambda x: s(0.5) * x - entropy(s(0.5)), lambda x: s(-0.5) * x - entropy(s(0.5))),
    ("rpo_fwd_kl", {}, lambda x: -math.log(s(-0.5)), lambda x: -math.log(s(0.5))),
])  # fmt: skip
def test_far_out_in_float32(
    name: str, config: Config, wrong: Callable[[float], float], right: Callable[[float], float], x: float
) -> None:
    """Where log of sigma(x) is -inf, exp(-x) is inf and sigma(x) is 0 or 1, the loss is a straight line."""
    for delta, line in ((-x, wrong), (x, right)):
        value, gradient = at(name, delta, 0.0, {"beta": 1.0, **config}, gap=0.5, dtype=torch.float32)
        assert value == pytest.approx(line(x), rel=1e-6, abs=1e-30)
        assert gradient.isfinite().all()
