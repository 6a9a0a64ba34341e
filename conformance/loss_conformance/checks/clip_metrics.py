"""Metrics that count what a clip stops: they move where the clip does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import torch

from loss_conformance.cases.case import Case
from loss_conformance.cases.token_grid import LOGPROBS, of_tokens
from loss_conformance.checks.conditions import unless, unless_rebuilt
from loss_conformance.checks.metrics import single_numbers
from loss_conformance.checks.registry import Severity, check
from loss_conformance.evaluation import LossRaised, Malformed
from loss_conformance.report.numbers import number
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["clip_is_counted", "stopped_is_counted"]

SITUATIONS: Final = ("off_policy", "typical", "on_policy")
EACH: Final = 4
FAR: Final = 2.0
"""A log-ratio beyond every usual clip, and short of where weights vanish."""
FACTORS: Final = (0.125, 8.0)
COUNTS: Final = re.compile(r"frac|ratio|rate|share|percent|count", re.IGNORECASE)
"""What such a metric is called beside ``clip``."""
ONE_SIDE: Final = re.compile(r"low|high|upper|dual|min|max|_c(_|$)|neg|pos", re.IGNORECASE)
"""Names of metrics of one side, which may well never be reached."""


@check(
    group="metrics",
    statement="A metric that counts what is clipped changes between batches in which the clip acts and those in which it does not.",
    over=("off_policy",),
    severity=Severity.ADVICE,
    why="A clip fraction that is always 0 says that the step is small enough, whatever the policy does.",
    cause="the clipped number compared with the range it was clipped to, or a ratio that is 1 by construction.",
    fix="Compare what came before the clip: ((v - v_old).abs() > clip).float().mean().",
    seen_in="RLinf/RLinf#1529",
    applies=lambda trial: unless("stochastic", "stateful")(trial) or _no_clip(trial),
)
def clip_is_counted(trial: Trial) -> None:
    cases = trial.bench.cases_of(SITUATIONS, EACH)
    seen: dict[str, list[float]] = {}
    for _, base in cases:
        for name, value in _counted(base.metrics):
            seen.setdefault(name, []).append(value)
    settings = {float(value) for _, value in _clips(trial)}
    still = {name: values[0] for name, values in seen.items() if len(values) == len(cases) and len(set(values)) == 1}
    if not seen:
        raise NotExercised("it returns no number that counts what is clipped")
    if len(still) < len(seen) or any(value in settings for value in still.values()):
        return  # another counts it, or it repeats a setting
    acts = next((setting for setting in _clips(trial) if _acts_on_some(trial, *setting)), None)
    if acts is None:
        raise NotExercised("its clip stops nothing in these batches")
    name, value = next(iter(still.items()))
    raise Broken(
        f"the metric {name!r} is {number(value)} for each of {len(cases)} batches",
        f"a number that moves: {acts[0]} changes the gradient on some of them",
    )


@check(
    group="metrics",
    statement="Where the clip has stopped every token, a metric that counts what is clipped is not 0.",
    over=("off_policy",),
    severity=Severity.ADVICE,
    why="A share that counts the tokens the clip leaves alone falls as the policy runs away.",
    cause="the comparison of the two objectives turned round, or made of what was already clipped.",
    fix="clipped = ratio * A > clip(ratio) * A, where the loss is -min of the two.",
    seen_in="huggingface/trl#3032",
    applies=lambda trial: unless("stochastic", "stateful")(trial) or _no_policy(trial),
)
def stopped_is_counted(trial: Trial) -> None:
    base = trial.evaluate(_overshot(trial.case))
    counted = dict(_counted(base.metrics))
    if not counted:
        raise NotExercised("it returns no number that counts what is clipped")
    if any(bool(gradient.any()) for gradient in (*base.gradients.values(), *base.parameters.values())):
        raise NotExercised("no clip stops every token that moved as its advantage asks")
    if not any(value > 0 for value in counted.values()):
        name, value = next(iter(counted.items()))
        raise Broken(
            f"the metric {name!r} is {number(value)}",
            "a share above 0: no token gets a gradient any more",
            changed="every token moved as its advantage asks, far beyond the clip",
        )


def _no_policy(trial: Trial) -> str | None:
    kinds = trial.case.schema.kinds()
    older = {"batch.prev_logprobs", "batch.generation_logprobs"} & kinds
    if {LOGPROBS, "batch.advantages"} <= kinds and older:
        return None
    return "it does not read advantages and older log-probabilities beside those it trains"


def _overshot(case: Case) -> Case:
    """Return the case with every token moved as its advantage asks."""
    own, advantages = case.schema.find(LOGPROBS), case.schema.find("batch.advantages")
    assert own is not None
    assert advantages is not None
    sign = torch.sign(of_tokens(case, advantages, case.tensor(advantages)))
    policy = case.with_tensors({own.key: case.tensor(own) - FAR})
    moved = {}
    for slot in case.slots():
        if slot.kind not in ("batch.prev_logprobs", "batch.generation_logprobs") or slot.token_axis != 1:
            continue
        older = of_tokens(policy, own, policy.tensor(own)) - FAR * sign
        before = case.tensor(slot)
        moved[slot.key] = older[:, slot.shift : slot.shift + before.shape[1]].to(before)
    return policy.with_tensors(moved)


def _no_clip(trial: Trial) -> str | None:
    return unless_rebuilt(trial) or (None if list(_clips(trial)) else "it has no setting that clips")


def _clips(trial: Trial) -> Iterator[tuple[str, float]]:
    for name, value in trial.bench.subject.settings.items():
        if type(value) is float and value > 0 and ("clip" in name.lower() or name.lower() in ("eps", "epsilon")):
            yield name, value


def _counted(metrics: Any) -> Iterator[tuple[str, float]]:
    for name, value in single_numbers(metrics).items():
        if "clip" in name.lower() and COUNTS.search(name) and not ONE_SIDE.search(name):
            yield name, value


def _acts_on_some(trial: Trial, name: str, value: float) -> bool:
    """Return whether a wider or narrower clip changes the gradient on some batch far off policy, and not on policy."""
    rebuild = trial.bench.subject.rebuild
    assert rebuild is not None
    moved: dict[str, list[bool]] = {"off_policy": [], "on_policy": []}
    for factor in FACTORS:
        try:
            loss = rebuild({name: value * factor})
            for situation, found in moved.items():
                for case, base in trial.bench.cases_of((situation,), EACH):
                    found.append(any(trial.moves(base, trial.evaluate(case, loss=loss))))
        except (Malformed, LossRaised, ValueError, TypeError, AssertionError):
            continue
    return any(moved["off_policy"]) and not any(moved["on_policy"])
