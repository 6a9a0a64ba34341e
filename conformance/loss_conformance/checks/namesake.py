"""The namesake: a loss that bears the name of a reference should be that loss, in one of its conventions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

from loss_conformance.checks.beside_reference import BesideReference, Factors, broken_gradient
from loss_conformance.checks.registry import Severity, check
from loss_conformance.evaluation import LossRaised, Malformed
from loss_conformance.facts.namesakes import is_reference, namesakes
from loss_conformance.report.numbers import number
from loss_conformance.subject.setting_names import shared_settings
from loss_conformance.subject.subject import TargetError
from loss_conformance.trial import Broken, NotExercised, Trial
from loss_reference.registry import registry
from loss_reference.settings import settings_of

__all__ = ["namesake"]

MOST_VALUES: Final = 3


def _bears_a_name(trial: Trial) -> str | None:
    if trial.bench.comparison is not None:
        return "it is compared with a baseline"
    if is_reference(trial.bench.subject.loss):
        return "it is a reference itself, or a variation of one"
    return None if namesakes(trial.bench.subject) else "its name is that of no reference loss"


@check(
    group="baseline",
    statement="A loss named after a reference loss is that loss in one of its conventions, up to how terms are averaged.",
    why="A constant factor, an exchanged term or a missing stop-gradient is seen by nothing but an independent reference.",
    cause="a dropped factor, an exchanged term, a clip on the wrong side, or a variant that only shares the name.",
    fix="Compare term by term with the reference, and declare Contract(baseline=...) to be held to it; rename a variant.",
    seen_in="linkedin/Liger-Kernel@2de93647",
    severity=Severity.ADVICE,
    applies=_bears_a_name,
    most_cases=1,
)
def namesake(trial: Trial) -> None:
    names = namesakes(trial.bench.subject)
    alike = _likeness(trial, names, {})
    if not alike:
        raise NotExercised(f"it is not fed what {' or '.join(names)} reads")
    for changed in _other_settings(trial, names):
        # A value of the reference may be none of this loss, or make it a loss of more parts.
        with contextlib.suppress(NotExercised, LossRaised, Malformed):
            _likeness(trial, names, changed, alike)


def _likeness(
    trial: Trial, names: tuple[str, ...], changed: Mapping[str, Any], known: Factors | None = None
) -> Factors:
    """Return the conventions of its namesakes that the loss is with these settings changed, with the factor of each.

    None where none of them can be asked.

    Args:
        trial: the loss and a case.
        names: its namesakes.
        changed: settings at other values than those in force.
        known: the conventions it is as it stands: with another setting it is still one of them.

    Raises:
        Broken: it is none of them.
    """
    sides = list(_beside_each(trial, names, changed))
    if changed and all(side.nothing_left() for side in sides):
        return {}  # nothing is left of it, which other checks say
    asked = [each for side in sides for each in side.conventions(known)]
    if not asked:
        return {}
    alike = [(each, broken_gradient(each)) for each in asked if each.factor is not None]
    if alike:
        same = {each.key: each.factor for each, broken in alike if broken is None and each.factor is not None}
        if not same:
            assert alike[0][1] is not None
            raise alike[0][1]
        return same
    said = ", ".join(f"{name} = {value!r}" for name, value in changed.items())
    for side in sides:
        side.require_no_more_inputs()
    if changed and _has_own_numbers(trial, names):
        raise NotExercised("it has a number of its own, which may act beside this setting")
    _require_no_more_terms(trial, names, changed)
    first = asked[0].answers[0]
    conventions_tried = f"one of {len(asked)} conventions of {' or '.join(names)}"
    wanted = f"{number(first.wanted.value)}, or the value in {conventions_tried}"
    raise Broken(first.got.value, wanted, changed=said, guessed=True)


def _require_no_more_terms(trial: Trial, names: tuple[str, ...], changed: Mapping[str, Any]) -> None:
    """Stop where the loss is its namesake once a number it alone is set by is 0: a margin, the weight of a further term.

    Raises:
        NotExercised: names the setting.
    """
    settings = trial.bench.subject.settings
    for name, value in settings.items() if trial.bench.subject.rebuild is not None else ():
        if not isinstance(value, float) or not value or any(_shares(settings, {name: 0.0}, each) for each in names):
            continue
        with contextlib.suppress(LossRaised, Malformed):  # it may decline 0
            without = [c for side in _beside_each(trial, names, {**changed, name: 0.0}) for c in side.conventions()]
            if any(each.factor is not None and broken_gradient(each) is None for each in without):
                raise NotExercised(f"with {name} = 0 it is its namesake: a loss of more parts")


def _beside_each(trial: Trial, names: tuple[str, ...], changed: Mapping[str, Any]) -> Iterator[BesideReference]:
    for name in names:
        with contextlib.suppress(TargetError, ValueError):  # a setting it does not have, or does not allow
            yield BesideReference(trial, name, changed)


def _other_settings(trial: Trial, names: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Yield each setting this loss and a namesake both have, at other values: some mistakes hide at a default."""
    settings = trial.bench.subject.settings
    if trial.bench.subject.rebuild is None:
        return
    for name, value in settings.items():
        for other in _other_values(name, value, names):
            if any(_shares(settings, {name: other}, each) for each in names):
                yield {name: other}


def _has_own_numbers(trial: Trial, names: tuple[str, ...]) -> bool:
    """Return whether the loss is set by a number that no namesake has: it may be another constant of theirs."""
    settings = trial.bench.subject.settings
    own = (name for name, value in settings.items() if type(value) is float)
    return any(not any(_shares(settings, {name: settings[name] / 2 + 1}, each) for each in names) for name in own)


def _shares(settings: Mapping[str, Any], changed: Mapping[str, Any], name: str) -> bool:
    """Return whether the reference of this name is set up differently with a setting so changed."""
    known = settings_of(registry.get(name))
    return shared_settings(settings, known) != shared_settings({**settings, **changed}, known)


def _other_values(name: str, value: Any, names: tuple[str, ...]) -> list[Any]:
    """Return what a setting is changed to: what a reference says it may be, its end points among them, or a neighbour."""
    if isinstance(value, bool):
        return [not value]
    options = [option for each in names if (option := registry.get(each).contract.options.get(name)) is not None]
    listed = [other for option in options for other in option.values if type(other) is type(value) and other != value]
    if listed or not isinstance(value, float):
        return list(dict.fromkeys(listed))[:MOST_VALUES]
    return [value / 2 if value else 0.1]
