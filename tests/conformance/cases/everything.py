"""Cases that fill every field of the vocabulary, in every situation."""

from functools import cache

from loss_conformance.cases.build import build
from loss_conformance.cases.case import Case
from loss_conformance.cases.plan import Plan
from loss_conformance.cases.pool import draw_pool
from loss_conformance.cases.slot import Schema, Slot
from loss_conformance.subject.interface import vocabulary_slots
from loss_reference import Contract

PLANS = 22
SLOTS = vocabulary_slots(Contract())


@cache
def pool() -> dict[str, list[Plan]]:
    return draw_pool(PLANS, 0)


@cache
def case(situation: str, turn: int, paired: bool) -> Case:
    """One plan of the situation built with every field of the vocabulary, none of them optional."""
    return build(Schema(SLOTS, 1 + paired), pool()[situation][turn])


def cases(situation: str, paired: bool = False, count: int = 12) -> tuple[Case, ...]:
    """The first plans of the situation."""
    return tuple(case(situation, turn, paired) for turn in range(count))


def mixed_cases(situation: str) -> tuple[Case, ...]:
    """Every plan of the situation, by turns with single rows and with pairs of rows."""
    return tuple(case(situation, turn, bool(turn % 2)) for turn in range(PLANS))


def slot(name: str, place: str | None = None) -> Slot:
    """The slot of a field; ``place`` tells the two ``values`` and the two ``rewards`` apart."""
    return next(s for s in SLOTS if s.name == name and place in (None, s.place))
