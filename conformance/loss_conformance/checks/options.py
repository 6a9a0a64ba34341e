"""Options: every setting does something, and does it to the gradient."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any, Final

from torch import nn

from loss_conformance.checks.acts_elsewhere import VARIED, acts_elsewhere
from loss_conformance.checks.portions import ORDERS_THE_WORK
from loss_conformance.checks.registry import check
from loss_conformance.evaluation import Evaluation, LossRaised, Malformed
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["option_effect"]

GUARDS: Final = re.compile(r"(.*_)?(eps|epsilon)(_.*)?", re.IGNORECASE)
SMALL: Final = 1e-3
"""What keeps a division or a logarithm finite acts where it is needed alone."""
FEW, MANY = 1, 5
"""Cases of each situation a setting is tried on: most act on the first."""


@check(
    group="options",
    statement="Every setting changes the gradient of L on some batch.",
    over=("typical",),
    why="A setting that is read and never reaches the gradient is tuned for weeks without training anything.",
    cause="a value taken with .item() or detach() and added to the loss, a branch never taken, a setting not forwarded.",
    fix="Let the setting scale something that carries gradient; declare Option(inert=True) for one that must not.",
    seen_in="volcengine/verl@3e3d9372a",
    applies=lambda trial: None if _settings(trial) or _inert(trial) else "it has no settings that can be varied",
)
def option_effect(trial: Trial) -> None:
    if trial.bench.subject.rebuild is None:
        raise NotExercised("an instance cannot be constructed again with other settings")
    settings = _settings(trial)
    _require_inert(trial)
    few, all_cases = _Answered(trial, FEW), _Answered(trial, MANY)
    effects = {
        name: _plain_effect(few, all_cases, name, settings) or _effect(all_cases, name, settings) for name in settings
    }
    for name, effect in effects.items():
        if effect.value_moves and not effect.gradient_moves:
            if acts_elsewhere(trial, name, settings[name], on_the_gradient=True):
                continue  # where it moved the value, all terms were constants, as beyond a clip
            if _adds_a_number(all_cases, name, settings[name]):
                continue  # as the constant of a density, which is left out or not
            raise Broken(
                f"{name} changes the value of L and no gradient at all",
                f"a gradient that changes with {name}",
                cause=f"{name} only adds a constant: it is detached, or went through .item().",
                # A constant added on purpose is ordinary where nobody said what the setting is for.
                guessed=name not in trial.facts.contract.options
                and (trial.foreign or isinstance(trial.bench.subject.settings.get(name), bool)),
            )
    for name, effect in effects.items():
        if effect.wants_more:
            continue
        if effect.value_moves is False and not effect.gradient_moves:
            if acts_elsewhere(trial, name, settings[name]):
                continue
            raise Broken(
                f"{name} changes neither value nor gradient",
                f"an L that changes with {name}",
                guessed=name not in trial.facts.contract.options,
            )
        if _only_switches(few, all_cases, name, settings[name]):
            raise Broken(
                f"{name} = 0 and another number differ, and no two other numbers do",
                f"an L that changes with {name}",
                cause=f"{name} turns something on, and does not weigh it.",
                guessed=name not in trial.facts.contract.options,
            )
        if effect.silent:
            raise Broken(
                f"with {name}={effect.silent[0]!r} L and its gradient are 0 on every batch",
                "a loss that still trains: the setting weighs one part against another, and neither may be empty",
                cause="one of the two parts it mixes is constant: it compares a thing with itself, or reads no trained input.",
                guessed=True,
            )
        partner = next(
            (other for other in effect.beside or () if settings[other][0] is settings[name][0] is None), None
        )
        if partner is not None and name in trial.facts.contract.options:
            raise Broken(
                f"{name} = {settings[name][1]!r} does nothing as long as {partner} is not set",
                "a setting that acts by itself",
                cause="the branch asks for the other setting alone.",
                guessed=True,
            )
        if effect.alike:
            one, other = sorted(effect.alike)[0]
            raise Broken(f"{name}={one!r} and {name}={other!r} give the same L and gradient", "two different losses")


@dataclass
class _Effect:
    """What a setting does.

    Attributes:
        value_moves: whether the value changes with it; ``None`` when no two of its values are legal.
        gradient_moves: whether the gradient does.
        silent: numbers other than 0 with which nothing is left of the loss.
        alike: pairs of words that were legal beside the same settings and between which nothing changed at all.
        wants_more: whether it was tried beside settings that read a field no case has, and may act there.
        beside: the settings it first acted beside; empty when it acts alone, ``None`` when it does not act.
    """

    value_moves: bool | None = None
    gradient_moves: bool = False
    silent: list[float] = field(default_factory=list)
    alike: list[tuple[str, str]] = field(default_factory=list)
    compared: list[tuple[str, str]] = field(default_factory=list)
    wants_more: bool = False
    beside: dict[str, Any] | None = None

    def compare(self, trial: Trial, one: Any, got: list[Evaluation], other: Any, wanted: list[Evaluation]) -> None:
        """Note what changes between two values of the setting, by more than rounding."""
        moves = [trial.moves(a, b) for a, b in zip(got, wanted, strict=True)]
        value_moves, gradient_moves = (any(which) for which in zip(*moves, strict=True))
        self.value_moves = bool(self.value_moves) or value_moves
        self.gradient_moves = self.gradient_moves or gradient_moves
        self.compared.append((one, other))
        if value_moves or gradient_moves:
            # A list, because settings need not be hashable.
            self.alike = [pair for pair in self.alike if pair != (one, other)]

    def notice_silence(self, answers: list[tuple[Any, list[Evaluation]]]) -> None:
        """Note numbers that leave nothing of the loss where others leave something."""
        if not all(_nothing_left(got) for _, got in answers):
            self.silent += [
                value for value, got in answers if value and isinstance(value, float) and _nothing_left(got)
            ]


class _Answered:
    """What the loss answers with some settings changed, on ``each`` cases of a situation; the same are asked for once.

    Attributes:
        helpful: settings beside which another one was seen to act; what hides one often hides several.
    """

    def __init__(self, trial: Trial, each: int) -> None:
        self.trial = trial
        self.each = each
        self.helpful: list[dict[str, Any]] = []
        self._known: dict[str, list[Evaluation] | None] = {}

    def __call__(self, changed: dict[str, Any]) -> list[Evaluation] | None:
        in_force = self.trial.bench.subject.settings
        different = {name: changed[name] for name in sorted(changed) if changed[name] != in_force.get(name, in_force)}
        key = repr(different)
        if key not in self._known:
            self._known[key] = _answers(self.trial, different, self.each, lasting=True)
        return self._known[key]


def _plain_effect(few: _Answered, all_cases: _Answered, name: str, settings: dict[str, list[Any]]) -> _Effect | None:
    """Return what a setting does where a few cases show it, with nothing left to ask of the others."""
    effect = _effect(few, name, settings)
    if not effect.gradient_moves or effect.alike or effect.silent or effect.wants_more:
        return None
    acts_alone = not effect.beside or _effect(all_cases, name, settings, alone=True).gradient_moves
    return replace(effect, beside={}) if acts_alone else effect


def _effect(answered: _Answered, name: str, settings: dict[str, list[Any]], *, alone: bool = False) -> _Effect:
    """Vary a setting alone, then together with each other one: some act only beside another."""
    effect = _Effect()
    declared = name in answered.trial.facts.contract.options
    if declared:
        # Two words name two behaviours; two numbers may both lie beyond where a clip acts.
        effect.alike = [pair for pair in combinations(settings[name], 2) if all(isinstance(x, str) for x in pair)]
    for beside in [{}] if alone else _companions(name, settings, answered.helpful):
        answers: list[tuple[Any, list[Evaluation]]] = []
        for value in settings[name]:
            got = answered({**beside, name: value})
            effect.wants_more = effect.wants_more or got is None
            if got:
                for other, wanted in answers:
                    effect.compare(answered.trial, other, wanted, value, got)
                answers.append((value, got))
            if declared and effect.gradient_moves and not effect.alike:
                break
        effect.notice_silence(answers)
        if effect.gradient_moves and effect.beside is None:
            effect.beside = beside
        if effect.wants_more or (effect.gradient_moves and not effect.alike):
            answered.helpful += [beside] if beside and beside not in answered.helpful else []
            break
    effect.alike = [pair for pair in effect.alike if pair in effect.compared]
    return effect


def _only_switches(few: _Answered, all_cases: _Answered, name: str, values: list[Any]) -> bool:
    """Return whether a number acts by being 0 or not: beside 0, which is another loss, all others are the same one."""
    numbers = [value for value in values if isinstance(value, float) and value]
    off = next((value for value in values if isinstance(value, float | int) and value == 0), None)
    if off is None or len(numbers) < 2 or _tells_apart(few, name, numbers):
        return False
    alike = _tells_apart(all_cases, name, [numbers[0], off]) and not _tells_apart(all_cases, name, numbers)
    return alike and not acts_elsewhere(all_cases.trial, name, numbers)


def _tells_apart(answered: _Answered, name: str, values: list[Any]) -> bool:
    """Return whether the first of some values of a setting and another differ in value or gradient."""
    first, *others = (answered({name: value}) or [] for value in values)
    return any(any(answered.trial.moves(a, b)) for other in others for a, b in zip(first, other, strict=False))


def _adds_a_number(answered: _Answered, name: str, values: list[Any]) -> bool:
    """Return whether two values of a setting differ by the same number on every batch, and by nothing else."""
    one, other = (answered({name: value}) or [] for value in values[:2])
    steps = [float(a.value - b.value) for a, b in zip(one, other, strict=False)]
    bounds = [answered.trial.value_tolerance(each).bound for each in (*one, *other)]
    return len(steps) > 1 and max(steps) - min(steps) <= 2 * max(bounds)


def _nothing_left(answers: list[Evaluation]) -> bool:
    return all(
        bool(got.value == 0) and not any(bool(g.any()) for g in (*got.gradients.values(), *got.parameters.values()))
        for got in answers
    )


def _companions(name: str, settings: dict[str, list[Any]], first: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    yield {}
    # A word, or what is None until it is needed, switches others on more often than a number does.
    switches_first = sorted(settings, key=lambda other: isinstance(settings[other][0], float))
    others = ({other: value} for other in switches_first for value in settings[other][1:])
    for beside in (*first, *(each for each in others if each not in first)):
        if name not in beside:
            yield beside


def _answers(trial: Trial, changed: dict[str, Any], each: int, *, lasting: bool = False) -> list[Evaluation] | None:
    """Return the evaluations of ``each`` ordinary cases with these settings; none when they are not legal together.

    ``None`` when they read a field that those in force do not, so that no case has it: a coefficient of 0 turned up.
    Where the loss remembers, a ``lasting`` object lives through all of them: what it remembers may be what is set.
    """
    rebuild = trial.bench.subject.rebuild
    assert rebuild is not None
    case, answers = trial.case, []
    try:
        loss = rebuild(changed)
        lasting = lasting and trial.facts.contract.stateful
        loss = loss.to(trial.bench.dtype) if lasting and isinstance(loss, nn.Module) else loss
        for case, _ in trial.bench.cases_of(VARIED, each):
            answers.append(trial.evaluate(case, loss=loss, same_object=lasting))
        return answers
    except (Malformed, ValueError, TypeError, AssertionError):
        return []
    except LossRaised as raised:
        if raised.wants(case, trial.facts.contract.fields):
            return None
        if lasting:  # what it remembers is of another size
            return _answers(trial, changed, each)
        declared = [name for name, value in changed.items() if _declares(trial, name, value)]
        if len(declared) < len(changed):
            return []
        said = ", ".join(f"{name}={value!r}" for name, value in changed.items())
        raise Broken(f"with {said} it raised {raised}", "a loss", traceback=raised.traceback) from None


def _declares(trial: Trial, name: str, value: Any) -> bool:
    option = trial.facts.contract.options.get(name)
    return option is not None and value in option.values


def _require_inert(trial: Trial) -> None:
    """Demand that options declared inert change neither value nor gradient."""
    for name in _inert(trial):
        base = trial.bench.cases_of(VARIED, MANY)
        for value in trial.facts.contract.options[name].values:
            for got, (case, wanted) in zip(_answers(trial, {name: value}, MANY) or (), base, strict=False):
                # Up to rounding: an option that only orders the work, such as a chunk size, orders the sums as well.
                Trial(trial.bench, case).require_same(got, wanted, f"{name}={value!r}, declared inert")


def _inert(trial: Trial) -> list[str]:
    """Return the settings declared to change nothing."""
    settings = trial.bench.subject.settings
    return [name for name, option in trial.facts.contract.options.items() if option.inert and name in settings]


def _settings(trial: Trial) -> dict[str, list[Any]]:
    """Return, for each setting, the value in force and others to try: the declared ones, or its neighbours.

    An option that is declared and that the loss was not seen to read is tried as it is declared: its key may be misspelt.
    """
    declared = trial.facts.contract.options
    found: dict[str, list[Any]] = {}
    for name, value in trial.bench.subject.settings.items():
        option = declared.get(name)
        if (option is not None and option.inert) or ORDERS_THE_WORK.fullmatch(name):
            continue
        if option is None and isinstance(value, float) and 0 < value <= SMALL and GUARDS.fullmatch(name):
            continue
        others = [v for v in (option.values if option else ()) if v != value] or list(_neighbours(value))
        if others:
            found[name] = [value, *others]
    for name, option in declared.items():
        if name not in found and not option.inert and len(option.values) > 1 and not ORDERS_THE_WORK.fullmatch(name):
            found[name] = list(option.values)
    return found


def _neighbours(value: Any) -> Iterator[Any]:
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, float):
        yield from ((value * 2, value / 2) if value else (0.1, 0.5))
