"""Weights that bear the name of a further term: what they weigh is that term, not the rest of the loss."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from loss_conformance.cases.case import Case
from loss_conformance.cases.one_side import one_side_moved
from loss_conformance.cases.transform import other_content
from loss_conformance.checks.conditions import unless, unless_rebuilt
from loss_conformance.checks.other_settings import evaluated_with
from loss_conformance.checks.registry import Severity, check
from loss_conformance.report.numbers import number
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["weighs_its_own_term"]

WEIGHT: Final = r"(_loss)?_(alpha|coef|coeff|coefficient|weight|lambda|scale|bonus)"
WEIGHTS: Final = {
    "preference": re.compile(rf"(rpo|cpo|sft|nll|imitation|bc|likelihood){WEIGHT}|(pref_)?ftx(_gamma)?", re.IGNORECASE),
    "policy_gradient": re.compile(rf"(ent|entropy|vf|value|value_function|critic){WEIGHT}", re.IGNORECASE),
}
"""By family, the names of what weighs imitation beside a preference, entropy or values beside a policy gradient."""


@check(
    group="options",
    statement="The weight of a further term (imitation, entropy, values) weighs that term, not the preference or advantage.",
    over=("typical", "full"),
    severity=Severity.ADVICE,
    why="At the usual weight of 1 nothing shows; at another one the wrong half of the loss is turned up or down.",
    cause="loss * alpha + nll for loss + alpha * nll.",
    fix="loss = preference + alpha * nll.",
    seen_in="huggingface/trl#1868",
    applies=lambda trial: (
        unless("stochastic", "stateful")(trial)
        or unless_rebuilt(trial)
        or (None if list(_weights(trial)) else "it has no weight of a further term by name")
    ),
)
def weighs_its_own_term(trial: Trial) -> None:
    main, other = _main_term_moved(trial.case, trial.facts.contract.family)
    tried = False
    for name, value in _weights(trial):
        on, off = (_moves(trial, other, name, weight) for weight in (value or 1.0, 0.0))
        tried |= bool(on)
        if on and off is False:
            raise Broken(
                f"with {name} = 0 L does not depend on {main}, with {number(value or 1.0)} it does",
                f"an L that depends on {main}, whatever {name} is",
                changed=f"{name} = 0",
            )
    if not tried:
        raise NotExercised(f"{main} does not move it, or it refuses other weights")


def _weights(trial: Trial) -> Iterator[tuple[str, float]]:
    names = WEIGHTS.get(trial.facts.contract.family or "")
    for name, value in trial.bench.subject.settings.items():
        if names is not None and names.fullmatch(name) and isinstance(value, float):
            yield name, value


def _main_term_moved(case: Case, family: str | None) -> tuple[str, Case]:
    """Return what the main term is made of, and the case with another one."""
    if family == "preference":
        name, moved = "the rejected answers", one_side_moved(case, "rejected")
    else:
        slots = [slot for slot in case.slots() if slot.role == "advantages"]
        name = "the advantages"
        moved = case.with_tensors({s.key: other_content(s, case.tensor(s)) for s in slots}) if slots else None
    if moved is None:
        raise NotExercised("what its main term is made of is not among its inputs")
    return name, moved


def _moves(trial: Trial, other: Case, name: str, weight: float) -> bool | None:
    """Return whether L moves with the main term at this weight; ``None`` where it refuses the weight."""
    here, there = (evaluated_with(trial, case, {name: weight}) for case in (trial.case, other))
    return None if here is None or there is None else any(trial.moves(here, there))
