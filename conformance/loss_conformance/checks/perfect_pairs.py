"""Perfect pairs: embeddings that have found their partners, and are far from all others."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from loss_conformance.cases.slot import Slot
from loss_conformance.checks.conditions import unless
from loss_conformance.checks.perfect import settles_above_nothing
from loss_conformance.checks.registry import Severity, check
from loss_conformance.evaluation import parameters_of
from loss_conformance.report.numbers import number
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["perfect_pairs_cost_nothing"]

LENGTHS: Final = (16.0, 32.0)
"""Products of partners and strangers are then at least 256 apart, and 1024."""
FOLLOWS: Final = 2.0**-7
"""Share of an ordinary L beyond which twice as long embeddings change more than an epsilon beside them does."""


@check(
    group="positivity",
    statement="Where partners coincide, far from all strangers, an L that grows with their length does not settle above 0.",
    over=("typical", "full"),
    severity=Severity.ADVICE,
    why="What is left is the same whatever the model does: it hides how far training has come, and weakens every step.",
    cause="each row compared with itself as with a stranger: the diagonal is not left out, or divides the rest.",
    fix="where(~eye, terms, 0).sum() / (B * (B - 1)).",
    seen_in="",
    applies=lambda trial: unless("stochastic", "stateful")(trial) or _unless_two_sides(trial),
)
def perfect_pairs_cost_nothing(trial: Trial) -> None:
    if parameters_of(trial.loss):
        raise NotExercised("it has parameters of its own, which may be anything yet")
    sides = _sides(trial)
    corners = _corners(*trial.case.tensor(sides[0]).shape).to(trial.case.tensor(sides[0]))
    usual = trial.finite_base.value
    weak, strong = (_at(trial, sides, length * corners) for length in LENGTHS)
    if not bool(torch.isfinite(weak)) or not settles_above_nothing(weak, strong, usual.abs()):
        return
    longer = {slot.key: 2 * trial.case.tensor(slot) for slot in sides}
    twice = trial.evaluate(trial.case.with_tensors(longer))
    if bool((twice.value - usual).abs() <= FOLLOWS * usual.abs()):
        raise NotExercised("it looks at directions, or standardises its features first")
    raise Broken(
        f"{number(weak)}, and {number(strong)} at twice the length",
        "towards 0",
        changed=f"{sides[0].key} and {sides[1].key} the corners of a simplex, {LENGTHS[0]:g} and {LENGTHS[1]:g} from its middle",
    )


def _at(trial: Trial, sides: list[Slot], rows: Tensor) -> Tensor:
    return trial.evaluate(trial.case.with_tensors({slot.key: rows.clone() for slot in sides})).value


def _corners(rows: int, features: int) -> Tensor:
    """Return unit vectors any two of which point away from each other.

    Raises:
        NotExercised: there are not as many in this space.
    """
    if not 1 < rows <= features:
        raise NotExercised("there are more rows than can point away from each other, or one alone")
    corners = torch.zeros(rows, features, dtype=torch.float64)
    corners[:, :rows] = torch.eye(rows, dtype=torch.float64) - 1 / rows
    return torch.nn.functional.normalize(corners, dim=1)


def _unless_two_sides(trial: Trial) -> str | None:
    if trial.facts.contract.family not in (None, "contrastive") or trial.facts.contract.lower_bound not in (None, 0.0):
        return "it is no loss of pairs that is at least 0"
    return None if _sides(trial) else "it reads more than two embeddings of each row"


def _sides(trial: Trial) -> list[Slot]:
    slots = trial.case.slots()
    sides = [slot for slot in slots if slot.role == "embeddings" and slot.trainable and slot.shape == ("B", "D")]
    return sides if len(sides) == len(slots) == 2 else []
