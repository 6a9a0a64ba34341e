"""A loss beside a reference in every convention of it: on which of them they agree, and up to which counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Final

from loss_conformance.cases.case import Case
from loss_conformance.cases.off_ties import off_ties
from loss_conformance.cases.transform import scramble
from loss_conformance.conventions import conventions
from loss_conformance.evaluation import Evaluation, LossRaised, Malformed
from loss_conformance.subject.setting_names import settings_in_force
from loss_conformance.trial import Broken, NotExercised, Trial
from loss_reference.interface import LossFunction
from loss_reference.registry import registry

__all__ = ["BesideReference", "Convention", "Factors", "broken_gradient"]

OVER: Final = ("typical", "off_policy", "full")
COUNTS: Final = 5

Factors = dict[str, tuple[int, int]]
"""Conventions, and the two counts by whose ratio a loss differs from each."""


@dataclass(frozen=True)
class Answer:
    """Both losses on one case.

    Attributes:
        common: what both are fed.
    """

    trial: Trial
    common: Case
    got: Evaluation
    wanted: Evaluation


@dataclass(frozen=True)
class Convention:
    """One convention of a reference.

    Attributes:
        side: the loss beside the reference.
        loss: the reference so set up.
        key: which reference, and what it is set to that the loss has no setting for.
        answers: both losses on a few cases, all of them where the first agrees.
        factor: the two counts by whose ratio they differ on all of them; ``None`` when the values differ otherwise.
    """

    side: BesideReference
    loss: LossFunction
    key: str
    answers: list[Answer]
    factor: tuple[int, int] | None


class BesideReference:
    """A loss beside a reference it is named after."""

    def __init__(self, trial: Trial, name: str, changed: Mapping[str, Any]) -> None:
        subject = trial.bench.subject
        self.loss = subject.rebuild(changed) if changed and subject.rebuild is not None else None
        self.comparison = trial.bench.compared_with(name, changed)
        settings = {**settings_in_force(subject), **changed}
        self.losses = {f"{name} {free}": loss for free, loss in conventions(registry.get(name), settings)}
        trials = [Trial(trial.bench, case) for case, _ in trial.bench.cases_of(OVER, 2) if _is_ordinary(case)]
        self.fed = [(each, _one_advantage_per_row(self.comparison.common(each))) for each in trials]
        self.ours = [self.comparison.ours(each, common, self.loss) for each, common in self.fed]
        for each in trials:
            each.compare_in_float32()

    def conventions(self, known: Factors | None = None) -> Iterator[Convention]:
        """Yield every convention of the reference that can be asked; none when it needs what the loss does not read.

        Args:
            known: the only ones to ask, with the factor each of them has.
        """
        if not self.fed or self.comparison.lacks(self.fed[0][0]):
            return
        for key, loss in self.losses.items():
            first = self._answer(0, loss) if known is None or key in known else None
            if first is None:
                continue
            only = None if known is None else known[key]
            factor = _factor([first], only)
            answers = [first]
            if factor is not None:
                answers += [a for i in range(1, len(self.fed)) if (a := self._answer(i, loss)) is not None]
                factor = _factor(answers, only)
            yield Convention(self, loss, key, answers, factor)

    def nothing_left(self) -> bool:
        """Return whether the loss is 0 on every case, up to rounding."""
        pairs = zip(self.fed, self.ours, strict=True)
        return all(bool(got.value.abs() <= trial.value_tolerance(got).bound) for (trial, _), got in pairs)

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
            if not any(self._follows(trial, common, moved, loss) for loss in self.losses.values()):
                raise NotExercised(
                    f"it follows {slot.key}, which {self.comparison.name} does not: a loss of more parts"
                )

    def _follows(self, trial: Trial, common: Case, moved: Case, loss: LossFunction) -> bool:
        try:
            return any(trial.moves(*(self.comparison.theirs(trial, case, loss) for case in (common, moved))))
        except (NotExercised, LossRaised, Malformed):
            return False

    def _answer(self, i: int, loss: LossFunction) -> Answer | None:
        trial, common = self.fed[i]
        try:
            return Answer(trial, common, self.ours[i], self.comparison.theirs(trial, common, loss))
        except (NotExercised, LossRaised, Malformed):
            return None

    def off_ties(self, answer: Answer, loss: LossFunction) -> Answer:
        """Return both losses beside the case: at a tie either of two gradients is right."""
        common = off_ties(answer.common)
        ours = self.comparison.ours(answer.trial, common, self.loss)
        return Answer(answer.trial, common, ours, self.comparison.theirs(answer.trial, common, loss))


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


def _factor(answers: list[Answer], only: tuple[int, int] | None) -> tuple[int, int] | None:
    """Return the counts by whose ratio the reference is multiplied on every case, the plain 1 / 1 first."""
    pairs = ((i, j) for i in range(COUNTS) for j in range(COUNTS)) if only is None else (only,)
    return next((pair for pair in pairs if all(_agrees(answer, *pair) for answer in answers)), None)


def _agrees(answer: Answer, i: int, j: int) -> bool:
    wanted = answer.wanted.value * _ratio(answer.trial.case, i, j)
    return bool((answer.got.value - wanted).abs() <= answer.trial.value_tolerance(answer.got).bound)


def _ratio(case: Case, i: int, j: int) -> float:
    """Return the ratio of two counts that terms may be divided by: 1, rows, entries, trained tokens, present rows."""
    slot = next((slot for slot in case.slots() if slot.trainable), case.slots()[0])
    sizes = [size for size, letter in zip(case.tensor(slot).shape, slot.shape, strict=True) if letter not in ("V", "D")]
    counts = (1, sizes[0] if sizes else 1, prod(sizes), float(case.weight.sum()), float((case.rows != 0).sum()))
    return max(float(counts[i]), 1.0) / max(float(counts[j]), 1.0)


def broken_gradient(convention: Convention) -> Broken | None:
    assert convention.factor is not None
    for answer in convention.answers:
        if _gradient_apart(answer, convention.factor) is None:
            continue
        apart = _gradient_apart(convention.side.off_ties(answer, convention.loss), convention.factor)
        if apart is not None:
            return apart
    return None


def _gradient_apart(answer: Answer, factor: tuple[int, int]) -> Broken | None:
    ratio = _ratio(answer.trial.case, *factor)
    wanted = {key: g * ratio for key, g in answer.wanted.gradients.items()}
    try:
        answer.trial.require_gradients(answer.got.gradients, wanted, "compared with its namesake", guessed=True)
    except Broken as broken:
        broken.of_gradient = False  # seen beside every tie already
        return broken
    return None
