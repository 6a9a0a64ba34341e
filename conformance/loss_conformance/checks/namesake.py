"""The namesake: a loss that bears the name of a reference should be that loss, in one of its conventions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Final

from loss_conformance.cases.case import Case
from loss_conformance.cases.off_ties import off_ties
from loss_conformance.cases.transform import scramble
from loss_conformance.checks.registry import Severity, check
from loss_conformance.conventions import conventions
from loss_conformance.evaluation import Evaluation, LossRaised, Malformed
from loss_conformance.facts.namesakes import is_reference, namesakes
from loss_conformance.report.numbers import number
from loss_conformance.subject.setting_names import settings_in_force, shared_settings
from loss_conformance.subject.subject import TargetError
from loss_conformance.trial import Broken, NotExercised, Trial
from loss_reference.interface import LossFunction
from loss_reference.registry import registry
from loss_reference.settings import settings_of

__all__ = ["namesake"]

OVER: Final = ("typical", "off_policy", "full")
COUNTS: Final = 5
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
    if not _likeness(trial, names, {}):
        raise NotExercised(f"it is not fed what {' or '.join(names)} reads")
    for changed in _other_settings(trial, names):
        # A value of the reference may be none of this loss, or make it a loss of more parts.
        with contextlib.suppress(NotExercised, LossRaised, Malformed):
            _likeness(trial, names, changed)


def _likeness(trial: Trial, names: tuple[str, ...], changed: Mapping[str, Any]) -> bool:
    """Return whether the loss, with these settings changed, could be compared with its namesakes.

    Raises:
        Broken: it is none of them in any convention.
    """
    sides = list(_beside_each(trial, names, changed))
    asked, breaks = [], []
    for each in (convention for side in sides for convention in side.conventions()):
        asked.append(each)
        if each.factor is not None:
            broken = _broken_gradient(each)
            if broken is None:
                return True
            breaks.append(broken)
    if breaks:
        raise breaks[0]
    if not asked:
        return False
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
            if any(each.factor is not None and _broken_gradient(each) is None for each in without):
                raise NotExercised(f"with {name} = 0 it is its namesake: a loss of more parts")


def _beside_each(trial: Trial, names: tuple[str, ...], changed: Mapping[str, Any]) -> Iterator[_SideBySide]:
    for name in names:
        with contextlib.suppress(TargetError, ValueError):  # a setting it does not have, or does not allow
            yield _SideBySide(trial, name, changed)


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


@dataclass(frozen=True)
class _Answer:
    """Both losses on one case.

    Attributes:
        common: what both are fed.
    """

    trial: Trial
    common: Case
    got: Evaluation
    wanted: Evaluation


@dataclass(frozen=True)
class _Convention:
    """One convention of a reference.

    Attributes:
        side: the loss beside the reference.
        loss: the reference so set up.
        answers: both losses on a few cases, all of them where the first agrees.
        factor: the two counts by whose ratio they differ on all of them; ``None`` when the values differ otherwise.
    """

    side: _SideBySide
    loss: LossFunction
    answers: list[_Answer]
    factor: tuple[int, int] | None


class _SideBySide:
    """A loss beside a reference it is named after."""

    def __init__(self, trial: Trial, name: str, changed: Mapping[str, Any]) -> None:
        subject = trial.bench.subject
        self.loss = subject.rebuild(changed) if changed and subject.rebuild is not None else None
        self.comparison = trial.bench.compared_with(name, changed)
        self.losses = list(conventions(registry.get(name), {**settings_in_force(subject), **changed}))
        trials = [Trial(trial.bench, case) for case, _ in trial.bench.cases_of(OVER, 2) if _is_ordinary(case)]
        self.fed = [(each, _one_advantage_per_row(self.comparison.common(each))) for each in trials]
        self.ours = [self.comparison.ours(each, common, self.loss) for each, common in self.fed]
        for each in trials:
            each.compare_in_float32()

    def conventions(self) -> Iterator[_Convention]:
        """Yield every convention of the reference that can be asked; none when it needs what the loss does not read."""
        if not self.fed or self.comparison.lacks(self.fed[0][0]):
            return
        for loss in self.losses:
            first = self._answer(0, loss)
            if first is None:
                continue
            factor = _factor([first])
            answers = [first]
            if factor is not None:
                answers += [a for i in range(1, len(self.fed)) if (a := self._answer(i, loss)) is not None]
                factor = _factor(answers)
            yield _Convention(self, loss, answers, factor)

    def require_no_more_inputs(self) -> None:
        """Stop where the loss follows an input that the reference follows in no convention: it is a loss of more parts.

        Raises:
            NotExercised: names the input.
        """
        trial, common = self.fed[0]
        for slot in trial.case.slots():
            if slot.key not in common.tensors:
                continue
            if slot.movable or slot.trainable:
                moved = common.with_tensors({slot.key: common.tensors[slot.key] * 0.75})
            elif slot.role in ("labels", "token_ids"):
                moved = scramble(common, slot, None, common.active(slot))
            else:
                continue
            if not any(trial.moves(self.ours[0], self.comparison.ours(trial, moved, self.loss))):
                continue
            if not any(self._follows(trial, common, moved, loss) for loss in self.losses):
                raise NotExercised(
                    f"it follows {slot.key}, which {self.comparison.name} does not: a loss of more parts"
                )

    def _follows(self, trial: Trial, common: Case, moved: Case, loss: LossFunction) -> bool:
        try:
            return any(trial.moves(*(self.comparison.theirs(trial, case, loss) for case in (common, moved))))
        except (NotExercised, LossRaised, Malformed):
            return False

    def _answer(self, i: int, loss: LossFunction) -> _Answer | None:
        trial, common = self.fed[i]
        try:
            return _Answer(trial, common, self.ours[i], self.comparison.theirs(trial, common, loss))
        except (NotExercised, LossRaised, Malformed):
            return None

    def off_ties(self, answer: _Answer, loss: LossFunction) -> _Answer:
        """Return both losses beside the case: at a tie either of two gradients is right."""
        common = off_ties(answer.common)
        ours = self.comparison.ours(answer.trial, common, self.loss)
        return _Answer(answer.trial, common, ours, self.comparison.theirs(answer.trial, common, loss))


def _one_advantage_per_row(case: Case) -> Case:
    """Return the case as trainers fill it: where sequences are compared, one advantage stands for a mean of many."""
    changed = {}
    for slot in case.slots():
        if slot.role == "advantages" and slot.token_axis == 1:
            tensor = case.tensor(slot)
            changed[slot.key] = tensor[:, -1:].expand(tensor.shape).contiguous()
    return case.with_tensors(changed)


def _is_ordinary(case: Case) -> bool:
    """Return whether every row that weighs something has a trained token: what an empty answer is worth is a convention."""
    return bool((case.trained[:, 1:].any(dim=1) | (case.rows == 0)).all())


def _factor(answers: list[_Answer]) -> tuple[int, int] | None:
    """Return the counts by whose ratio the reference is multiplied on every case, the plain 1 / 1 first."""
    pairs = ((i, j) for i in range(COUNTS) for j in range(COUNTS))
    return next((pair for pair in pairs if all(_agrees(answer, *pair) for answer in answers)), None)


def _agrees(answer: _Answer, i: int, j: int) -> bool:
    wanted = answer.wanted.value * _ratio(answer.trial.case, i, j)
    return bool((answer.got.value - wanted).abs() <= answer.trial.value_tolerance(answer.got).bound)


def _ratio(case: Case, i: int, j: int) -> float:
    """Return the ratio of two counts that terms may be divided by: 1, rows, entries, trained tokens, present rows."""
    slot = next((slot for slot in case.slots() if slot.trainable), case.slots()[0])
    sizes = [size for size, letter in zip(case.tensor(slot).shape, slot.shape, strict=True) if letter not in ("V", "D")]
    counts = (1, sizes[0] if sizes else 1, prod(sizes), float(case.weight.sum()), float((case.rows != 0).sum()))
    return max(float(counts[i]), 1.0) / max(float(counts[j]), 1.0)


def _broken_gradient(convention: _Convention) -> Broken | None:
    assert convention.factor is not None
    for answer in convention.answers:
        if _gradient_apart(answer, convention.factor) is None:
            continue
        apart = _gradient_apart(convention.side.off_ties(answer, convention.loss), convention.factor)
        if apart is not None:
            return apart
    return None


def _gradient_apart(answer: _Answer, factor: tuple[int, int]) -> Broken | None:
    ratio = _ratio(answer.trial.case, *factor)
    wanted = {key: g * ratio for key, g in answer.wanted.gradients.items()}
    try:
        answer.trial.require_gradients(answer.got.gradients, wanted, "compared with its namesake", guessed=True)
    except Broken as broken:
        broken.of_gradient = False  # seen beside every tie already
        return broken
    return None
