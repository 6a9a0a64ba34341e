"""The two answers of a pair: both are trained, and at the start of training already."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.cases.token_grid import LOGPROBS, on_policy
from loss_conformance.checks.conditions import declared_only, unless
from loss_conformance.checks.goals import pair_slopes
from loss_conformance.checks.registry import check
from loss_conformance.evaluation import Evaluation, LossRaised, Malformed
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["both_answers_are_trained", "starts_moving"]

EACH: Final = 4
FEWEST: Final = 4
"""Pairs that all have to agree, so that no hinge that is met already decides."""
NUDGE: Final = 2.0**-10
APART: Final = 4.0
"""By what factor log-probabilities are stretched for the chosen answer, and shrunk for the rejected one."""


@check(
    group="gradient_flow",
    statement="Of a loss that compares the answers of a pair, the chosen and the rejected ones each receive gradient.",
    over=("typical", "full"),
    why="With one of the two left out nothing is compared any more: likelihood is raised, or lowered, without a measure.",
    cause="one side dropped from the difference, detached, or the same rows taken for both.",
    fix="Take rows 0, 2, 4, ... for the chosen and 1, 3, 5, ... for the rejected answers, and train both.",
    applies=lambda trial: unless("surrogate_gradient")(trial) or _unless_compared(trial),
)
def both_answers_are_trained(trial: Trial) -> None:
    pairs, moved = 0, [False, False]
    for case, got in _usual_and_misordered(trial):
        slopes = pair_slopes(case, got)
        if slopes is None:
            continue
        there = _both_there(case)
        pairs += int(((slopes[0] != 0) | (slopes[1] != 0))[there].sum())
        moved = [before or bool((slope[there] != 0).any()) for before, slope in zip(moved, slopes, strict=True)]
    if pairs < FEWEST:
        raise NotExercised("it trains no two answers of a pair, or too few to tell")
    if not all(moved):
        missing = "rejected" if moved[0] else "chosen"
        raise Broken(
            f"the {missing} answer of none of {pairs} pairs receives gradient, whichever of the two is likelier",
            "a gradient at both answers of some pair",
            **declared_only(trial, "family"),
        )


@check(
    group="direction",
    statement="Where the policy still is its reference, a loss of pairs moves chosen and rejected answers apart already.",
    over=("typical", "full"),
    why="A loss that is at rest where training starts trains nothing, or what rounding errors say.",
    cause="a lost sign in one of two terms, so that they cancel while chosen and rejected move alike.",
    fix="Write down dL/dh_w - dL/dh_l at h_w = h_l = 0: it has to be below 0.",
    applies=lambda trial: unless("surrogate_gradient")(trial) or _unless_compared(trial),
)
def starts_moving(trial: Trial) -> None:
    pairs, usual, near, moves = 0, 0.0, 0.0, [False, False]
    for case, _ in trial.bench.cases_of(("typical", "full"), EACH):
        start = _at_reference(case)
        at_start = None if start is None else _apart(trial, start)
        if start is None or at_start is None:
            continue
        slopes, bound = at_start
        moves = [before or bool((slope.abs() > 4 * bound).any()) for before, slope in zip(moves, slopes, strict=True)]
        if all(moves):
            return
        pairs += slopes.shape[1]
        usual = max(usual, *(_steepest(trial, other) for other in (case, _stretched(case, APART, 1 / APART))))
        near = max(near, *(_steepest(trial, _stretched(start, 1 + by, 1 - by)) for by in (NUDGE, -NUDGE)))
    if pairs < FEWEST or not usual:
        raise NotExercised("it trains no two answers of a pair beside a reference, or too few to tell")
    if near > usual / 32:
        raise NotExercised("it has a kink where the policy is its reference")
    raise Broken(
        f"L does not change as chosen and rejected answers move apart, in any of {pairs} pairs",
        "an L that falls",
        changed="the reference set to the policy",
        **declared_only(trial, "family"),
    )


def _apart(trial: Trial, case: Case) -> tuple[Tensor, float] | None:
    """Return how L changes as the answers of each pair move apart, and what of it may be rounding; ``None`` without pairs.

    All tokens of an answer move by one nat [0], or their sum does [1]: losses add up log-probabilities, or average them.

    Raises:
        NotExercised: the gradient is not finite.
    """
    got = trial.evaluate(case)
    slopes = pair_slopes(case, got)
    if slopes is None:
        return None
    if not bool(torch.isfinite(torch.cat(slopes)).all()):
        raise NotExercised("it has no finite gradient there, which other checks say")
    bound = max((trial.gradient_tolerance(key, g).bound for key, g in got.gradients.items()), default=0.0)
    apart = torch.stack((slopes[0] - slopes[1], slopes[0] / _tokens(case, 0) - slopes[1] / _tokens(case, 1)))
    return apart[:, _both_there(case)], bound


def _tokens(case: Case, side: int) -> Tensor:
    """Return how many tokens are trained of the chosen (0) or rejected (1) answer of every pair, at least 1."""
    if not case.schema.paired:
        return torch.ones(len(case.rows), dtype=torch.float64)
    return case.trained[side::2, 1:].sum(1).clamp(min=1).to(torch.float64)


def _steepest(trial: Trial, case: Case) -> float:
    found = _apart(trial, case)
    return 0.0 if found is None or not found[0].numel() else float(found[0].abs().amax(1).amin())


def _unless_compared(trial: Trial) -> str | None:
    contract = trial.facts.contract
    if contract.family not in ("preference", "reward"):
        return f"family = {contract.family!r}"
    if contract.level not in (None, "pair") or trial.case.schema.group > 2:
        return "its answers are not compared two by two"
    return None


def _usual_and_misordered(trial: Trial) -> Iterator[tuple[Case, Evaluation]]:
    """Yield ordinary cases, each followed by itself with the rejected answers likelier: there every hinge is open."""
    for case, base in trial.bench.cases_of(("typical", "full"), EACH):
        yield case, base
        for other in (_stretched(case, APART, 1 / APART), _stretched(case, 1 / APART, APART)):
            try:
                yield other, trial.evaluate(other)
            except (LossRaised, Malformed):
                continue


def _stretched(case: Case, chosen: float, rejected: float) -> Case:
    """Return the case with the scores of both sides multiplied: log-probabilities stay below 0."""
    changed: dict[str, Tensor] = {}
    for slot in case.slots():
        if slot.kind in ("pair.policy_chosen_logps", "pair.chosen_rewards"):
            changed[slot.key] = case.tensor(slot) * chosen
        elif slot.kind in ("pair.policy_rejected_logps", "pair.rejected_rewards"):
            changed[slot.key] = case.tensor(slot) * rejected
        elif case.schema.paired and slot.kind in (LOGPROBS, "model_outputs.rewards"):
            changed[slot.key] = case.tensor(slot).clone()
            changed[slot.key][0::2] *= chosen
            changed[slot.key][1::2] *= rejected
    return case.with_tensors(changed)


def _at_reference(case: Case) -> Case | None:
    """Return the case with the reference equal to the policy; ``None`` when it holds no reference."""
    sides = [
        [case.schema.find(f"pair.{whose}_{side}_logps") for side in ("chosen", "rejected")]
        for whose in ("policy", "reference")
    ]
    if all(slot is not None and slot.key in case.tensors for side in sides for slot in side):
        policy, reference = sides
        return case.with_tensors(
            {
                r.key: case.tensor(p).clone()
                for p, r in zip(policy, reference, strict=True)
                if p is not None and r is not None
            }
        )
    reference_slot = case.schema.find("batch.reference_policy_logprobs")
    if reference_slot is None or reference_slot.key not in case.tensors or not case.schema.paired:
        return None
    return on_policy(case)


def _both_there(case: Case) -> Tensor:
    """Return which pairs weigh something and have tokens to train on both sides."""
    if not case.schema.paired:
        return torch.ones(len(case.rows), dtype=torch.bool)
    there = (case.rows != 0) & case.trained[:, 1:].any(dim=1)
    return there[0::2] & there[1::2]
