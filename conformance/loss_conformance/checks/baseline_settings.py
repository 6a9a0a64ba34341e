"""The baseline under other settings: what both are set by has to mean the same in both."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from loss_conformance.checks.conditions import unless, unless_rebuilt
from loss_conformance.checks.other_settings import named_values, rebuilt
from loss_conformance.checks.registry import check
from loss_conformance.comparison import Comparison
from loss_conformance.evaluation import LossRaised, Malformed
from loss_conformance.subject.setting_names import shared_settings
from loss_conformance.subject.subject import TargetError
from loss_conformance.trial import NotExercised, Trial
from loss_reference.registry import registry
from loss_reference.settings import settings_of

__all__ = ["baseline_settings"]

UNUSUAL: Final = 0.1
"""What a number is set to that is 0."""


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
    baseline = trial.facts.contract.baseline
    for name, value in trial.bench.subject.settings.items():
        for other in _other_values(trial, name, value, baseline):
            comparison = _so_set(trial, name, other, baseline)
            if comparison is not None:
                yield name, other, comparison


def _other_values(trial: Trial, name: str, value: Any, baseline: str | None) -> list[Any]:
    listed = named_values(trial, name)
    if not listed and baseline is not None:
        setting = settings_of(registry.get(baseline)).get(name)
        listed = [*setting.choices] if setting is not None else []
    if not listed and isinstance(value, bool):
        listed = [not value]
    if not listed and isinstance(value, float):
        listed = [value / 2 if value else UNUSUAL]
    return [other for other in listed if other is not None and other != value]


def _so_set(trial: Trial, name: str, other: Any, baseline: str | None) -> Comparison | None:
    """Return the comparison with the baseline at this value; ``None`` where it has no such setting, or refuses it."""
    settings = trial.bench.subject.settings
    if trial.bench.baseline is None and baseline is not None:
        known = settings_of(registry.get(baseline))
        if shared_settings({**settings, name: other}, known) == shared_settings(settings, known):
            return None
        try:
            comparison = trial.bench.compared_with(baseline, {name: other})
        except (TargetError, ValueError):
            return None
        # What nothing reads beside its other settings was left out: there it is not the baseline so set.
        before = trial.bench.compared_with(baseline).other.subject.settings
        return comparison if comparison.other.subject.settings != before else None
    return trial.bench.baseline_with({name: other})
