"""The baseline under other settings: what both are set by has to mean the same in both."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from loss_conformance.checks.conditions import unless, unless_rebuilt
from loss_conformance.checks.other_settings import other_values, rebuilt
from loss_conformance.checks.registry import check
from loss_conformance.comparison import Comparison
from loss_conformance.evaluation import LossRaised, Malformed
from loss_conformance.subject.setting_names import settings_in_force, shared_settings
from loss_conformance.subject.subject import TargetError
from loss_conformance.trial import NotExercised, Trial
from loss_reference.registry import registry
from loss_reference.settings import settings_of

__all__ = ["baseline_settings"]


@check(
    group="baseline",
    statement="With a setting both have at another value, L and its gradient still equal the baseline's.",
    over=("typical", "off_policy", "full"),
    why="A mistake in the branch behind a setting is invisible at its default, where most comparisons are made.",
    cause="a branch written for a setting nobody tried, or a setting that means something else under the same name.",
    fix="Compare the branch of this setting term by term with the reference implementation.",
    applies=lambda trial: (
        unless("stochastic", "stateful")(trial)
        or unless_rebuilt(trial)
        or (None if trial.bench.comparison is not None else "no baseline is declared or given")
    ),
    requires=("scalar_output", "baseline_value", "baseline_gradient"),
    most_cases=1,
)
def baseline_settings(trial: Trial) -> None:
    trial.compare_in_float32()
    tried = False
    for name, value, comparison in _both_at_other_values(trial):
        try:
            got, wanted = comparison.both(trial, rebuilt(trial, {name: value}))
        except (NotExercised, LossRaised, Malformed):
            continue  # one of the two refuses it, or reads more with it than the case holds
        tried = True
        # The same word may stand for two things; a contract that lists the setting says what this loss means by it.
        how: dict[str, Any] = {}
        if name not in trial.facts.contract.options:
            how = {"guessed": True, "declare": f"Contract(options={{{name!r}: Option(...)}})"}
        changed = f"{name} = {value!r} in both, compared with {comparison.name}"
        trial.require_value(got, wanted, changed, **how)
        trial.require_gradients(got.gradients, wanted.gradients, changed, **how)
    if not tried:
        raise NotExercised("it shares no setting with its baseline that both take another value for")


def _both_at_other_values(trial: Trial) -> Iterator[tuple[str, Any, Comparison]]:
    """Yield each setting both losses have, another value of it, and the comparison with the baseline so set."""
    baseline = _reference(trial)
    for name in trial.bench.subject.settings:
        for other in _other_values(trial, name, baseline):
            comparison = _so_set(trial, name, other, baseline)
            if comparison is not None:
                yield name, other, comparison


def _other_values(trial: Trial, name: str, baseline: str | None) -> list[Any]:
    """Return other values of a setting, those of the reference where the loss itself names none."""
    known = {} if baseline is None else settings_of(registry.get(baseline))
    choices = known[name].choices if name in known else ()
    found = other_values(trial, name) or [each for each in choices if each != trial.bench.subject.settings[name]]
    return [other for other in found if other is not None]


def _reference(trial: Trial) -> str | None:
    """Return the registered name of the baseline, declared or given; ``None`` where it is a loss of somebody's own."""
    given = trial.bench.baseline
    if given is None:
        return trial.facts.contract.baseline
    return next((name for name in registry.names() if registry.get(name) is type(given.loss)), None)


def _so_set(trial: Trial, name: str, other: Any, baseline: str | None) -> Comparison | None:
    """Return the comparison with the baseline at this value; ``None`` where it has no such setting, or refuses it."""
    if baseline is None:
        return trial.bench.baseline_with({name: other})
    settings, known = settings_in_force(trial.bench.subject), settings_of(registry.get(baseline))
    if shared_settings({**settings, name: other}, known) == shared_settings(settings, known):
        return None
    try:
        comparison = trial.bench.compared_with(baseline, {name: other})
        before = trial.bench.compared_with(baseline).other.subject.settings
    except (TargetError, ValueError):
        return None
    # What nothing reads beside its other settings was left out: there it is not the baseline so set.
    return comparison if comparison.other.subject.settings != before else None
