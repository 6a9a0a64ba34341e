"""Temperatures: what divides scores divides all of them."""

from __future__ import annotations

import re
from typing import Final

from loss_conformance.checks.conditions import unless, unless_rebuilt
from loss_conformance.checks.other_settings import evaluated_with
from loss_conformance.checks.registry import Severity, check
from loss_conformance.checks.rest import ONE_SIDE
from loss_conformance.evaluation import Evaluation
from loss_conformance.report.numbers import number
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["heat_dissolves", "temperature_divides_scores"]

TEMPERATURE: Final = re.compile(r"(.*_)?temp(erature)?(_.*)?", re.IGNORECASE)
HOTTER: Final = 2.0
POWERS: Final = (0, 1, 2)
"""Powers of the temperature a loss may be multiplied by, so that its gradient keeps its size."""
COEFFICIENT: Final = re.compile(r"(.*_)?(coef|coeff|coefficient|weight|alpha|beta)(_.*)?", re.IGNORECASE)
"""What a setting is called that weighs a further term, an entropy bonus or a penalty."""
SWITCHED_ON: Final = 0.5
MELTING: Final = 2.0**20
"""How many times hotter the embeddings dissolve: what is divided keeps a millionth of its pull."""
NOTABLE: Final = 2.0**-7
"""A loss below it, where even odds cost log 2, says that nothing is left to tell apart."""


@check(
    group="options",
    statement="Scores twice as large at twice the temperature give the same L, up to a power of the temperature.",
    over=("typical", "full"),
    severity=Severity.ADVICE,
    why="The policy samples at softmax(z / T): an entropy or a divergence of softmax(z) is that of another distribution.",
    cause="a term of the scores before they are divided, a temperature that multiplies, or one that divides more than scores.",
    fix="z = z / temperature once, before anything else reads z.",
    seen_in="OpenRLHF/OpenRLHF#1319",
    applies=lambda trial: unless("stochastic", "stateful")(trial) or _unless_heated(trial),
    most_cases=2,
)
def temperature_divides_scores(trial: Trial) -> None:
    name, heat = _heat(trial)
    scores = [slot for slot in trial.case.slots() if slot.role == "logits"]
    if not any(slot.trainable for slot in scores):
        raise NotExercised("it is given no scores of a model")
    if len(scores) > 1 and any(slot.role in ("labels", "token_ids") for slot in trial.case.slots()):
        raise NotExercised("beside a teacher, labels are compared with scores that no temperature divides")
    larger = trial.case.with_tensors({slot.key: HOTTER * trial.case.tensor(slot) for slot in scores})
    compared = False
    for more in ({}, *({off: SWITCHED_ON} for off in _switched_off(trial))):
        base = evaluated_with(trial, trial.case, more)
        both = evaluated_with(trial, larger, {**more, name: HOTTER * heat})
        hotter = evaluated_with(trial, trial.case, {**more, name: HOTTER * heat})
        if base is None or both is None or hotter is None or not any(trial.moves(base, hotter)):
            continue
        compared = True
        if not any(_same_up_to(trial, base, both, power) for power in POWERS):
            said = "".join(f"{setting} = {value:g}, " for setting, value in more.items())
            raise Broken(
                number(both.value),
                f"{number(base.value)}, or 2 or 4 times as much",
                changed=f"{said}scores twice as large, {name} = {HOTTER * heat:g} instead of {heat:g}",
                tolerance=trial.value_tolerance(base),
            )
    if not compared:
        raise NotExercised(f"{name} changes nothing here, which option_effect says")


@check(
    group="options",
    statement="At a very high temperature nothing is left that moves the embeddings.",
    over=("typical", "full"),
    severity=Severity.ADVICE,
    why="What the temperature does not divide keeps its weight: at 0.07 it counts a fourteenth of all else.",
    cause="similarity * temperature, or one of the similarities taken before they are divided.",
    fix="logits = torch.cat([positive, negatives], dim=1) / temperature.",
    seen_in="bowang-lab/BLEEP#5",
    applies=lambda trial: unless("stochastic", "stateful")(trial) or _unless_heated(trial),
)
def heat_dissolves(trial: Trial) -> None:
    name, heat = _heat(trial)
    if not any(slot.role == "embeddings" and slot.trainable for slot in trial.case.slots()):
        raise NotExercised("it is given no embeddings of a model")
    got = evaluated_with(trial, trial.case, {name: MELTING * heat})
    usual = _pull(trial.finite_base)
    # Where a row has no strangers, or has long been told apart from them, there is nothing that could dissolve.
    if got is None or not usual > 0 or not min(float(x.value.abs()) for x in (got, trial.finite_base)) > NOTABLE:
        raise NotExercised("its embeddings do not move, or it does not take so high a temperature")
    # Beside the value, since both may be multiplied by a power of the temperature.
    left = _pull(got) / usual
    if min(left, _pull(got)) > MELTING**-0.5:  # a pull that was as small before has not been left over
        raise Broken(
            f"{number(left)} of the pull on the embeddings, beside the value, is left",
            "none",
            changed=f"{name} = {MELTING * heat:g} instead of {heat:g}",
        )


def _pull(evaluation: Evaluation) -> float:
    """Return the largest entry of any gradient, in units of the value."""
    largest = max((float(gradient.abs().amax()) for gradient in evaluation.gradients.values()), default=0.0)
    return largest / float(evaluation.value.abs()) if bool(evaluation.value) else 0.0


def _same_up_to(trial: Trial, base: Evaluation, both: Evaluation, power: int) -> bool:
    """Return whether L is multiplied by this power of the temperature."""
    bound = trial.value_tolerance(base).bound
    return abs(float(both.value) / HOTTER**power - float(base.value)) <= 2 * bound


def _unless_heated(trial: Trial) -> str | None:
    return unless_rebuilt(trial) or (None if len(_heats(trial)) == 1 else "it has no temperature, or more than one")


def _heats(trial: Trial) -> dict[str, float]:
    settings = trial.bench.subject.settings
    named = {name: value for name, value in settings.items() if TEMPERATURE.fullmatch(name)}
    numbers = {name: value for name, value in named.items() if isinstance(value, float) and value > 0}
    return {} if len(named) > 1 or any(ONE_SIDE.search(name) for name in named) else numbers


def _heat(trial: Trial) -> tuple[str, float]:
    return next(iter(_heats(trial).items()))


def _switched_off(trial: Trial) -> list[str]:
    """Return the weights of further terms that are 0 by default: an entropy bonus, a penalty."""
    settings = trial.bench.subject.settings
    return [
        name
        for name, value in settings.items()
        if isinstance(value, float) and not value and COEFFICIENT.fullmatch(name)
    ]
