"""Sides: what is wanted and what is not are each judged alone, so that one cannot hide the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from loss_conformance.cases.label_values import BINARY
from loss_conformance.cases.plan import ORDINARY
from loss_conformance.cases.transform import other_content
from loss_conformance.checks.goals import (
    has_labelled_answers,
    of_labelled_answers,
    of_targets,
    targets,
)
from loss_conformance.checks.registry import check
from loss_conformance.report.numbers import number
from loss_conformance.trial import Broken, NotExercised, Trial

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from loss_conformance.cases.case import Case
    from loss_conformance.cases.slot import Slot
    from loss_conformance.evaluation import Evaluation
    from loss_conformance.facts.facts import Facts

__all__ = ["both_sides_of_target", "labelled_answers"]

FEWEST_TERMS: Final = 6

Sides = Callable[["Facts", "Case", "Evaluation"], "Iterator[tuple[Slot, str, Tensor]]"]


@check(
    group="direction",
    statement="L falls as the log-probability of answers labelled desirable rises, and rises with that of the others.",
    over=("full",),
    why="With one sign for both, every answer is made likelier, those nobody wanted too, and the loss goes down.",
    cause="one sign in both branches of where(labels, ...), or the labels never read.",
    fix="where(labels != 0, sigma(-x), sigma(x)), x = beta * (log-ratio - z).",
    applies=lambda trial: (
        None if has_labelled_answers(trial.facts, trial.case) else "it is no preference loss of single labelled answers"
    ),
)
def labelled_answers(trial: Trial) -> None:
    declared = trial.facts.origin.get("family") == "declared"
    found = _slopes(trial, of_labelled_answers)
    for side, slopes in found.items():
        throughout = len(slopes) >= FEWEST_TERMS and all(x > 0 for x in slopes)
        # Of a family nobody declared, labels may as well say what is not wanted; then both go the other way.
        others_right = all(sum(others) < 0 for name, others in found.items() if name != side)
        if (declared and sum(slopes) > 0) or (throughout and others_right):
            raise Broken(
                f"{_how_many(slopes)} {side} pull the wrong way, by {number(sum(slopes))} in all",
                "likelier desirable answers, unlikelier others",
                guessed=not (declared and throughout),
                declare="" if declared else "Contract(family=...)",
            )


@check(
    group="direction",
    statement="L falls as a prediction approaches its target, from below as from above.",
    over=("full",),
    why="Where one branch has the wrong sign predictions run away on that side, and the other side hides it.",
    cause="where(error >= 0, q * error, (1 - q) * error) for max(q * error, (q - 1) * error); an abs that is missing.",
    fix="Each branch is at least 0, and 0 where the prediction is the target.",
    seen_in="scikit-learn/scikit-learn#6076",
    applies=lambda trial: (
        None if targets(trial.facts, trial.case) else "it holds no prediction against one target of the same shape"
    ),
)
def both_sides_of_target(trial: Trial) -> None:
    found = _slopes(trial, of_targets)
    away = [side for side, slopes in found.items() if len(slopes) >= FEWEST_TERMS and all(x > 0 for x in slopes)]
    towards = [side for side, slopes in found.items() if len(slopes) >= FEWEST_TERMS and all(x < 0 for x in slopes)]
    # Away on both sides is for wanted_direction to say; what is felt up to a scale goes both ways on each.
    if len(away) == len(towards) == 1 and _follows_target(trial):
        declared = trial.facts.origin.get("family") == "declared"
        raise Broken(
            f"{_how_many(found[away[0]])} {away[0]} are pushed away from it",
            "a pull towards the target",
            guessed=not declared,
            declare="" if declared else "Contract(family=...)",
        )


def _slopes(trial: Trial, sides: Sides) -> dict[str, list[float]]:
    """Return the slopes of L along the wanted direction by side, over the whole run, those of rounding left out."""
    found: dict[str, list[float]] = {}
    for case, base in trial.bench.cases_of(("on_policy", *ORDINARY), 3):
        for slot, side, push in sides(trial.facts, case, base):
            tolerance = trial.gradient_tolerance(slot.key, base.gradients[slot.key]).bound
            found.setdefault(side, []).extend(float(x) for x in push[push.abs() > tolerance])
    if not any(found.values()):
        raise NotExercised("no gradient towards or away from the goal")
    return found


def _how_many(slopes: list[float]) -> str:
    return f"{sum(x > 0 for x in slopes)} of {len(slopes)}"


def _follows_target(trial: Trial) -> bool:
    """Return whether gradients depend on the target: the difference of two means goes one way wherever it stands."""
    other = {}
    for slot in targets(trial.facts, trial.case):
        tensor = trial.case.tensor(slot)
        other[slot.key] = 1 - tensor if slot.kind == BINARY else other_content(slot, tensor)
    return trial.moves(trial.finite_base, trial.evaluate(trial.case.with_tensors(other)))[1]
