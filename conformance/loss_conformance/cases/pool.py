"""The pool of plans a run works on: drawn once by Hypothesis, shared by every law."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from random import Random

import hypothesis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from loss_conformance.cases.hermetic import hermetic_draws
from loss_conformance.cases.plan import SITUATIONS, Plan, plans

__all__ = ["draw_pool", "smallest_plan"]


def draw_pool(cases: int, seed: int) -> dict[str, list[Plan]]:
    """Return ``cases`` distinct plans for every situation; the same seed gives the same plans on any machine."""
    return {situation: list(found) for situation, found in _pool(cases, seed).items()}


@cache
def _pool(cases: int, seed: int) -> dict[str, list[Plan]]:
    pool: dict[str, list[Plan]] = {situation: [] for situation in SITUATIONS}
    # Hypothesis repeats itself once it has drawn a dozen: a further seed gives what is missing.
    further = 0
    while min(map(len, pool.values())) < cases:
        for situation, found in _drawn(cases, seed + (further << 64)).items():
            pool[situation] = list(dict.fromkeys([*pool[situation], *found]))[:cases]
        further += 1
    return pool


def _drawn(cases: int, seed: int) -> dict[str, list[Plan]]:
    """Return up to ``cases`` plans for every situation, drawn with one seed."""
    pool: dict[str, list[Plan]] = {situation: [] for situation in SITUATIONS}

    @hypothesis.seed(seed)
    @_settings(max_examples=cases + 1, phases=(Phase.generate,))
    @hypothesis.given(st.fixed_dictionaries({situation: plans(situation) for situation in SITUATIONS}))
    def collect(drawn: dict[str, Plan]) -> None:
        for situation, plan in drawn.items():
            pool[situation].append(plan)

    with hermetic_draws():
        collect()
    # The first example is the simplest of all: it shows little, and shrinking finds it anyway.
    return {situation: found[1:] or found for situation, found in pool.items()}


def smallest_plan(failing: Plan, still_fails: Callable[[Plan], bool], seed: int, tries: int = 150) -> tuple[Plan, int]:
    """Return the simplest plan of the same situation that still fails, and the number of attempts it took.

    Each plan is tried once: a loss that fails now and then would contradict itself. When the search meets no failing
    plan, ``failing`` itself is returned.
    """
    tried: dict[Plan, bool] = {}

    def fails(plan: Plan) -> bool:
        if plan not in tried:
            tried[plan] = still_fails(plan)
        return tried[plan]

    try:
        with hermetic_draws():
            found = hypothesis.find(
                plans(failing.situation),
                fails,
                settings=_settings(max_examples=tries, phases=(Phase.generate, Phase.shrink)),
                random=Random(seed),
            )
    except NoSuchExample:
        return failing, len(tried)
    return found, len(tried)


def _settings(max_examples: int, phases: tuple[Phase, ...]) -> settings:
    # Every setting is explicit: defaults differ under CI, and the user's own profiles must neither act nor be changed.
    return settings(
        max_examples=max_examples,
        phases=phases,
        deadline=None,
        database=None,
        derandomize=False,
        print_blob=False,
        report_multiple_bugs=False,
        suppress_health_check=(HealthCheck.too_slow, HealthCheck.data_too_large),
    )
