"""Embeddings that do not belong together are pushed apart."""

from __future__ import annotations

from typing import Final

import torch

from loss_conformance.cases.case import Case
from loss_conformance.checks.conditions import unless
from loss_conformance.checks.partners import strangers_of
from loss_conformance.checks.registry import check
from loss_conformance.evaluation import LossRaised, Malformed
from loss_conformance.report.numbers import number
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["pushes_negatives"]

EACH: Final = 6
FEWEST: Final = 3
"""Cases that all have to agree, so that no accident of a batch decides."""


@check(
    group="direction",
    statement="L is not lower where negatives coincide with their anchors than where they are opposite.",
    over=("typical", "full"),
    why="Negatives that attract make all embeddings one point, and the loss falls on the way.",
    cause="the similarity of negatives added where it is subtracted, or the sign of its margin exchanged.",
    fix="relu(d(anchor, positive) - d(anchor, negative) + margin): what is similar to a negative costs.",
    applies=lambda trial: unless("stochastic", "surrogate_gradient")(trial) or _no_strangers(trial),
)
def pushes_negatives(trial: Trial) -> None:
    told, worst = [], 0.0
    for case, _ in trial.bench.cases_of(("typical", "full"), EACH):
        difference = _coincident_less_opposite(trial, case)
        if difference:
            told.append(difference)
            worst = min(worst, difference)
    if len(told) < FEWEST:
        raise NotExercised("too few batches tell the two apart")
    if all(difference < 0 for difference in told):
        raise Broken(
            f"L is lower, by up to {number(torch.tensor(-worst))}, where negatives coincide with their anchors, "
            f"in each of {len(told)} batches",
            "an L that is higher there",
            changed="every negative set to its anchor, and to its opposite",
        )


def _no_strangers(trial: Trial) -> str | None:
    family, origin = trial.facts.contract.family, trial.facts.origin.get("family")
    if origin == "declared" and family != "contrastive":
        return f"family = {family!r}"
    return None if strangers_of(trial.case) is not None else "no input is named as negatives beside anchors"


def _coincident_less_opposite(trial: Trial, case: Case) -> float:
    """Return how much higher L is where strangers coincide; 0 where rounding decides, or nothing finite is to be had."""
    meetings = strangers_of(case)
    if meetings is None:
        return 0.0
    try:
        near, far = (trial.evaluate(build(case)) for build in meetings)
    except (LossRaised, Malformed):
        return 0.0
    difference = float(near.value - far.value)
    bound = 4 * max(trial.value_tolerance(near).bound, trial.value_tolerance(far).bound)
    return difference if abs(difference) > bound else 0.0
