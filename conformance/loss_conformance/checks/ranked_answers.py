"""Groups of answers to one prompt that are given a score each: better ones are raised more than worse ones."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.cases.slot import Slot
from loss_conformance.cases.token_grid import on_policy, policy_slopes
from loss_conformance.checks.conditions import declared_only, unless
from loss_conformance.checks.registry import check
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["better_answers_are_raised"]

EACH: Final = 6
FEWEST: Final = 4
"""Groups that all have to agree."""
SCORES: Final = ("batch.rewards", "batch.labels")
"""What says how good an answer is, one number per row."""
FAMILIES: Final = ("preference", "policy_gradient")


@check(
    group="direction",
    statement="Of the answers to one prompt, the one with the highest reward is raised more than the one with the lowest.",
    over=("typical", "full"),
    why="With the difference taken the wrong way round the ranking is learned upside down, and the loss goes down.",
    cause="score_i - score_j exchanged with score_j - score_i, an ascending sort for a descending one, or r - v for v - r.",
    fix="L falls as the log-probability of the best answer rises and that of the worst one falls.",
    applies=lambda trial: unless("surrogate_gradient", "stochastic")(trial) or _unless_scored(trial),
)
def better_answers_are_raised(trial: Trial) -> None:
    told = wrong = 0
    for case, _ in trial.bench.cases_of(("typical", "full"), EACH):
        start = on_policy(case)
        scores = _scores(case)
        slopes = None if start is None else policy_slopes(start, dict(trial.evaluate(start).gradients))
        if start is None or scores is None or slopes is None:
            continue
        if not bool(torch.isfinite(slopes).all()):
            raise NotExercised("the log-probabilities receive no finite gradient, which other checks say")
        bound = trial.gradient_tolerance("", slopes).bound
        ahead = _best_less_worst(start, scores, slopes, case.schema.group)
        told, wrong = told + int((ahead.abs() > bound).sum()), wrong + int((ahead > bound).sum())
    if told < FEWEST:
        raise NotExercised("too few groups of answers with different scores receive gradient")
    if wrong == told:
        raise Broken(
            f"in each of {told} groups the answer with the lowest score is raised more than that with the highest",
            "the best one raised most",
            changed="every other policy set to the one that is trained",
            **declared_only(trial, "family"),
        )


def _unless_scored(trial: Trial) -> str | None:
    family = trial.facts.contract.family
    if family not in FAMILIES:
        return f"family = {family!r}"
    if trial.case.schema.find("batch.advantages") is not None:
        return "it reads advantages, which other checks look at"
    return None if _scores(trial.case) is not None else "it reads no score of its answers"


def _scores(case: Case) -> Slot | None:
    found = (case.schema.find(kind) for kind in SCORES)
    return next(
        (s for s in found if s is not None and s.shape == ("B",) and s.key in case.tensors and not s.trainable), None
    )


def _best_less_worst(case: Case, scores: Slot, slopes: Tensor, group: int) -> Tensor:
    """Return, per group, the slope of L along the answer with the highest score less that along the lowest."""
    size = group if group > 1 else len(case.rows)
    there = (case.rows != 0) & case.trained[:, 1:].any(dim=1)
    score, slope = case.tensor(scores).double(), slopes.double().sum(1)
    found = []
    for first in range(0, len(score) - size + 1, size):
        rows = torch.arange(first, first + size)[there[first : first + size]]
        if len(rows) > 1 and float(score[rows].amax()) > float(score[rows].amin()):
            found.append(slope[rows[score[rows].argmax()]] - slope[rows[score[rows].argmin()]])
    return torch.stack(found) if found else score.new_zeros(0)
