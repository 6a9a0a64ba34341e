"""Samples of their own: an input along an axis that is neither rows nor tokens is used from end to end."""

from __future__ import annotations

from typing import Final

from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.cases.slot import Slot
from loss_conformance.checks.reached import KNOWN_SIZES
from loss_conformance.checks.registry import Severity, check
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["whole_sample"]

VISITED: Final = ("off_policy", "typical", "full")
EACH: Final = 4
LONGEST: Final = 5
"""Entries along such an axis at most: a loop over parts goes wrong in as many."""


@check(
    group="options",
    statement="Of a constant along an axis of its own, the first entry has an effect wherever the last one has.",
    over=("typical",),
    severity=Severity.ADVICE,
    why="A statistic that is gone through in parts and overwritten each time knows the last part alone.",
    cause="kl = part.mean() in a loop, for a sum over the parts; an index that stays where it is.",
    fix="total = total + part.sum(), divided by the number of entries after the loop.",
    seen_in="PKU-Alignment/align-anything#216",
    applies=lambda trial: None if _samples(trial.case) else "no constant has an axis of its own",
    requires=("scalar_output", "input_effect"),
)
def whole_sample(trial: Trial) -> None:
    felt: dict[str, list[tuple[bool, bool]]] = {}
    for case, base in (*trial.bench.cases_of(VISITED, EACH), *trial.bench.further_cases(VISITED)):
        for slot in _samples(case):
            if case.tensor(slot).shape[0] == LONGEST:
                first, last = (_raised(case, slot, place) for place in (0, LONGEST - 1))
                felt.setdefault(slot.key, []).append(
                    (any(trial.moves(base, trial.evaluate(first))), any(trial.moves(base, trial.evaluate(last))))
                )
    if not felt:
        raise NotExercised("no case has enough entries along that axis")
    for key, ends in felt.items():
        of_first, of_last = (sum(end) for end in zip(*ends, strict=True))
        if min(of_first, of_last) == 0 and max(of_first, of_last) > 1:
            felt_end, other = ("last", "first") if of_last else ("first", "last")
            raise Broken(
                f"the {felt_end} entry of {key} has an effect in {max(of_first, of_last)} of {len(ends)} batches, "
                f"the {other} in none",
                "an effect of both",
            )


def _samples(case: Case) -> list[Slot]:
    """Return the real-valued constants of one axis, which is neither rows nor any other of the vocabulary."""
    return [
        slot
        for slot in case.slots()
        if slot.movable and not slot.trainable and len(slot.shape) == 1 and _own(slot.shape[0])
    ]


def _own(letter: str) -> bool:
    return letter not in KNOWN_SIZES and not letter.isdigit()


def _raised(case: Case, slot: Slot, place: int) -> Case:
    tensor: Tensor = case.tensor(slot).clone()
    tensor[place] = -0.125 if slot.role == "logprobs" else tensor[place] + 8.0
    return case.with_tensors({slot.key: tensor})
