"""Where a clipped surrogate stops: at the range its settings name, each setting on its own side."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.cases.slot import Slot
from loss_conformance.cases.token_grid import LOGPROBS, OTHER_POLICIES, on_policy
from loss_conformance.checks.conditions import declared_only, unless
from loss_conformance.checks.registry import check
from loss_conformance.report.numbers import number
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["clip_range"]

FARTHEST: Final = 3.0
"""The largest log-ratio that is tried: a factor of 20."""
ROWS: Final = 24
ROUNDS: Final = 6
"""With half the rows on either side, each round finds the stop 13 times closer: to 1e-6 in the end."""
STOPPED: Final = 1e-3
"""Of the slope on policy: a surrogate that has stopped has none, and a soft gate never gets this far at the range."""
NEAR: Final = 0.02
"""Of the setting: a stop this close to where the setting puts it is there."""
SMALLEST: Final = 1e-5
"""Smaller settings of such a name keep a divisor from 0."""
_SIDES: Final = {"low": "low lower min left neg negative", "high": "high higher upper max right pos positive"}
_OTHERS: Final = {
    "advantage",
    "advantages",
    "value",
    "values",
    "vf",
    "grad",
    "norm",
    "reward",
    "rewards",
    "kl",
    "adv",
    "dual",
    "c",
    "cov",
}
"""Words of settings that clip something else."""


@dataclass(frozen=True)
class _Range:
    """The settings of the clip, the same twice where one is for both sides."""

    low: tuple[str, float]
    high: tuple[str, float]

    @property
    def floors(self) -> tuple[float, ...]:
        a = self.low[1]
        # A setting near 1 may be the bound itself.
        return (1 - a, 1 / (1 + a), math.exp(-a), *((a,) if a > 0.5 else ()))

    @property
    def ceilings(self) -> tuple[float, ...]:
        b = self.high[1]
        return (1 + b, 1 / (1 - b), math.exp(b))


@check(
    group="direction",
    statement="A clipped surrogate that stops at the range of its setting on one side stops at it on the other side as well.",
    over=("off_policy",),
    why="A bound of eps for 1 - eps, or two exchanged, clips almost nothing on one side: answers are unlearned without end.",
    cause="clamp(eps, 1 + eps), or the lower range added and the upper one subtracted.",
    fix="ratio.clamp(1 - clip_low, 1 + clip_high).",
    seen_in="ChenmienTan/RL2#21",
    applies=lambda trial: unless("stochastic")(trial) or _unclipped(trial),
)
def clip_range(trial: Trial) -> None:
    said = _said(trial)
    assert said is not None
    case = _single_tokens(trial)
    floor, ceiling = _stops(trial, case)
    if floor is None or ceiling is None:
        raise NotExercised("it does not stop on both sides, so it is not clipped in this way")
    low_fits, high_fits = _among(floor, said.floors, said.low[1]), _among(ceiling, said.ceilings, said.high[1])
    if low_fits and high_fits:
        return
    exchanged = replace(said, low=said.high, high=said.low)
    crossed = _among(floor, exchanged.floors, said.high[1]) and _among(ceiling, exchanged.ceilings, said.low[1])
    if not (low_fits or high_fits or crossed):
        raise NotExercised("it stops at neither side where its settings say, so they mean something else")
    if not crossed and any(_among(stop, bounds, x) for stop, bounds, x in _other_bounds(trial, said, floor, ceiling)):
        raise NotExercised("another of its settings says where it stops")
    plain = not low_fits and high_fits and _among(floor, (said.low[1],), said.low[1])
    names = said.low[0] if said.low[0] == said.high[0] else f"{said.low[0]} and {said.high[0]}"
    raise Broken(
        f"the ratio stops at {number(floor)} and {number(ceiling)}",
        f"at {number(1 - said.low[1])} and {number(1 + said.high[1])}, as {names} say",
        changed="rows of one token, their ratio moved until their advantage no longer counts",
        cause="the lower and the upper range are exchanged." if crossed else "",
        # That the bound is the setting itself, or that of the other side, is no convention of anybody's.
        **({} if crossed or plain else {"guessed": True} if trial.foreign else declared_only(trial, "family")),
    )


def _unclipped(trial: Trial) -> str | None:
    if trial.facts.contract.family != "policy_gradient":
        return f"family = {trial.facts.contract.family!r}"
    kinds = trial.case.schema.kinds()
    if not {LOGPROBS, "batch.advantages"} <= kinds or not {"batch.prev_logprobs", "batch.generation_logprobs"} & kinds:
        return "it does not read advantages and older log-probabilities beside those it trains"
    return None if _said(trial) else "it has no setting, or more than one, that says where the ratio is clipped"


def _said(trial: Trial) -> _Range | None:
    """Return the settings that name the range: one for both sides, or one for each."""
    of_side: dict[str, list[tuple[str, float]]] = {"low": [], "high": [], "both": []}
    for name, value in trial.bench.subject.settings.items():
        words = set(re.split(r"[^a-z]+", name.lower()))
        clips = "clip" in name.lower() or words & {"eps", "epsilon"}
        if type(value) is not float or not SMALLEST < value < 1.0 or not clips or words & _OTHERS:
            continue
        side = next((side for side, own in _SIDES.items() if words & set(own.split())), "both")
        of_side[side].append((name, value))
    both, low, high = of_side["both"], of_side["low"], of_side["high"]
    # A side without a setting of its own has the common one: epsilon beside epsilon_high.
    lows, highs = low or both, high or both
    return _Range(lows[0], highs[0]) if len(lows) == len(highs) == 1 else None


def _other_bounds(
    trial: Trial, said: _Range, floor: float, ceiling: float
) -> Iterator[tuple[float, tuple[float, ...], float]]:
    """Yield each stop beside where the other settings of the loss may put it."""
    for name, value in trial.bench.subject.settings.items():
        if type(value) is float and value > 0 and name not in (said.low[0], said.high[0]):
            yield floor, (1 - value, 1 / (1 + value), math.exp(-value), value), value
            yield ceiling, (1 + value, math.exp(min(value, FARTHEST)), value), value


def _among(stop: float, bounds: tuple[float, ...], setting: float) -> bool:
    return any(abs(stop - bound) <= NEAR * setting for bound in bounds)


def _single_tokens(trial: Trial) -> Case:
    """Return a case of rows with one token: there the ratio of an answer is that of its token."""
    route, plan = trial.bench.route_of(trial.case), trial.case.plan
    if plan is None:
        raise NotExercised("it needs a drawn case")
    case = trial.bench.case(replace(plan, rows=ROWS, tokens=2, mask="full", samples="ones"), route)
    own = case.schema.find(LOGPROBS)
    if own is None or own.row_axis != 0 or any(slot.row_axis != 0 for slot in _moved(case)):
        raise NotExercised("its log-probabilities have other axes")
    # Low enough for every older policy to lie on either side of it.
    return case.with_tensors({own.key: case.tensor(own) - FARTHEST})


def _moved(case: Case) -> list[Slot]:
    kinds = ("batch.advantages", *(kind for kind in OTHER_POLICIES if kind != "batch.reference_policy_logprobs"))
    return [slot for slot in case.slots() if slot.kind in kinds]


def _stops(trial: Trial, case: Case) -> tuple[float | None, float | None]:
    """Return the ratios from which on a row of advantage below and above 0 no longer moves with it; ``None`` if never."""
    rows = len(case.rows)
    positive, place = torch.arange(rows) % 2 == 0, torch.arange(rows) // 2
    each = (rows + 1) // 2
    share = (place + 1) / each
    sign = torch.where(positive, 1.0, -1.0).to(torch.float64)
    usual = _slopes(trial, case, 0.0 * sign, sign)
    if usual is None or not bool((usual > 0).all()):
        raise NotExercised("on policy its gradient does not follow the advantage")
    # Where one has moved against its advantage the surrogate goes on; what stops there too is clipped in another way.
    drifted = _slopes(trial, case, -math.log(2.0) * sign, sign)
    if drifted is None or bool((drifted <= STOPPED * usual).any()):
        raise NotExercised("it stops tokens that moved against their advantage too")
    near, far = torch.zeros(2, dtype=torch.float64), torch.full((2,), FARTHEST, dtype=torch.float64)
    for round_ in range(ROUNDS):
        side = positive.long()
        moved = near[side] + (far - near)[side] * share
        slopes = _slopes(trial, case, sign * moved, sign)
        if slopes is None:
            raise NotExercised("it is not finite there")
        stopped = slopes <= STOPPED * usual
        for which, of_side in enumerate((~positive, positive)):
            first = moved[of_side & stopped]
            if round_ == 0 and not len(first):
                far[which] = torch.inf
            if not len(first) or not bool(torch.isfinite(far[which])):
                continue
            going_on = moved[of_side & ~stopped]
            far[which] = first.min()
            before = going_on[going_on < first.min()]
            near[which] = before.max() if len(before) else near[which]
    return (
        math.exp(-float(far[0])) if torch.isfinite(far[0]) else None,
        math.exp(float(far[1])) if torch.isfinite(far[1]) else None,
    )


def _slopes(trial: Trial, case: Case, log_ratio: Tensor, sign: Tensor) -> Tensor | None:
    """Return how far the gradient of every row grows with its advantage, at these log-ratios; ``None`` if not finite."""
    own = case.schema.find(LOGPROBS)
    alike = on_policy(case)
    assert own is not None
    assert alike is not None
    moved: dict[str, Tensor] = {}
    for slot in _moved(alike):
        tensor = alike.tensor(slot)
        shape = [-1, *(1 for _ in tensor.shape[1:])]
        if slot.kind == "batch.advantages":
            moved[slot.key] = sign.reshape(shape).expand(tensor.shape).to(tensor).clone()
        else:
            moved[slot.key] = (tensor - log_ratio.reshape(shape).to(tensor)).clamp(max=0.0)
    advantages = alike.schema.find("batch.advantages")
    assert advantages is not None
    once = trial.evaluate(alike.with_tensors(moved))
    twice = trial.evaluate(alike.with_tensors({**moved, advantages.key: 2 * moved[advantages.key]}))
    if own.key not in once.gradients:
        raise NotExercised("it does not train the log-probabilities")
    grown = (twice.gradients[own.key] - once.gradients[own.key]).reshape(len(sign), -1).abs().sum(1).to(torch.float64)
    return grown if bool(torch.isfinite(grown).all()) else None
