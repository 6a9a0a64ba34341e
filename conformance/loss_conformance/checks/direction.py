"""Direction: the loss falls where the model should go."""

from __future__ import annotations

import torch
from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.cases.plan import ORDINARY
from loss_conformance.cases.slot import Slot
from loss_conformance.cases.transform import other_content
from loss_conformance.checks.goals import goals_beside, has_goal, pair_slopes, pushes, regressions
from loss_conformance.checks.registry import check
from loss_conformance.checks.token_names import ids_are_names
from loss_conformance.evaluation import Evaluation
from loss_conformance.report.numbers import number
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["rejected_is_not_raised", "wanted_direction"]

NEARLY_CERTAIN = 2.0**-6
"""What is left of the log-probability of a chosen answer that the policy has learned."""
NUDGE = 2.0**-10
"""A change of targets that leaves their order as it is."""


@check(
    group="direction",
    statement="L falls as the log-probability (score) of what is wanted rises, on balance over the batch.",
    over=("on_policy", "typical", "full"),
    why="A flipped sign trains away from the goal while every other property holds; libraries have shipped it for weeks.",
    cause="a missing minus, chosen and rejected exchanged, or a penalty added where it should be subtracted.",
    fix="Check the sign of every term against the paper, and which rows are chosen (0, 2, 4, ...).",
    seen_in="DLR-RM/stable-baselines3@8f9aaaeb",
    applies=lambda trial: (
        None if has_goal(trial.facts, trial.case) else f"family = {trial.facts.contract.family!r} has no direction"
    ),
)
def wanted_direction(trial: Trial) -> None:
    slopes = _slopes(trial, trial.case, trial.finite_base)
    if not slopes:
        raise NotExercised("no gradient towards or away from the goal in this case")
    if sum(slopes) <= 0:
        return
    # Smoothing, margins and penalties legitimately pull single terms back; the balance of the whole run must be right.
    everywhere = [
        x for case, base in trial.bench.cases_of(("on_policy", *ORDINARY), 3) for x in _slopes(trial, case, base)
    ]
    if sum(everywhere) <= 0:
        return
    if not _goals_are_read(trial):
        raise NotExercised("it does not look at what it is given as its goal")
    if not _cost_when_met(trial):
        raise NotExercised("its predictions are not to equal what stands beside them, or cost least where they do")
    if not trial.facts.any_promised and not all(ids_are_names(trial, ids) for ids in _classes_beside(trial)):
        raise NotExercised("its classes are in an order or weighted, and which scores should rise is not known")
    family = trial.facts.contract.family
    # Of one flipped sign throughout: decisive, unless nothing but a name says what is wanted.
    flipped = all(x > 0 for x in everywhere) and family is not None
    declared = trial.facts.origin.get("family") == "declared"
    raise Broken(
        f"along the wanted direction L rises, by {number(sum(slopes))} in all "
        f"({sum(x > 0 for x in slopes)} of {len(slopes)} terms)",
        "L falls",
        cause="the sign of the whole loss is flipped." if flipped else "",
        # A subclass inherits the family and may add terms of its own, which go their own way.
        guessed=not (declared or flipped),
        declare="" if declared else f"Contract(family=...) if {family!r} is not what it is",
    )


@check(
    group="direction",
    statement="With the chosen answer learned and the rejected one at its reference, L does not fall as the rejected one rises.",
    over=("typical", "full"),
    why="Once the margin is reached, such a term is all that is left: the loss then teaches the answer nobody wanted.",
    cause="a likelihood term on the rejected answer, or on both.",
    fix="Imitate the chosen rows (0, 2, 4, ...) alone.",
    applies=lambda trial: (
        None
        if trial.facts.contract.family == "preference"
        and (trial.facts.promised("family") or trial.case.schema.find("pair.policy_rejected_logps"))
        else "it is not declared as a preference; a sum of losses may imitate every row"
    ),
)
def rejected_is_not_raised(trial: Trial) -> None:
    case = _learned(trial.case)
    got = trial.evaluate(case)
    slopes = pair_slopes(case, got)
    if slopes is None:
        raise NotExercised("it compares no log-probabilities in pairs")
    chosen, rejected = slopes
    bound = max((trial.gradient_tolerance(key, g).bound for key, g in got.gradients.items()), default=0.0)
    # Smoothing and squared margins pull back too, but then they pull the chosen answer down at the same time.
    alone = (rejected < -bound) & (chosen <= bound) & _chosen_is_there(case)
    if bool(alone.any()) and bool((rejected <= bound).all()):
        declared = trial.facts.origin.get("family") == "declared"
        raise Broken(
            f"L falls by {number(-rejected[alone].amin())} per nat of the rejected answer and does not rise with the chosen one",
            "an L that does not fall",
            changed="the chosen answer nearly certain, the rejected one at its reference",
            guessed=not declared,
            declare="" if declared else "Contract(family=...)",
        )


def _chosen_is_there(case: Case) -> Tensor:
    """Return which pairs have a chosen answer with tokens to learn: an empty one stays where the loss starts."""
    return case.trained[0::2].any(1) if case.schema.paired else torch.tensor(True)


def _learned(case: Case) -> Case:
    """Return the case with chosen answers nearly certain, and rejected ones whose reference is the policy itself."""
    changed: dict[str, Tensor] = {}
    policy = case.schema.find("model_outputs.next_token_logprobs")
    reference = case.schema.find("batch.reference_policy_logprobs")
    if policy is not None and case.schema.paired and policy.key in case.tensors:
        lp = case.tensor(policy).clone()
        lp[0::2] *= NEARLY_CERTAIN
        changed[policy.key] = lp
        if reference is not None and reference.key in case.tensors:
            ref = case.tensor(reference).clone()
            width = min(ref.shape[-1], lp.shape[-1])
            ref[1::2, ..., ref.shape[-1] - width :] = lp[1::2, ..., lp.shape[-1] - width :]
            changed[reference.key] = ref
        return case.with_tensors(changed)
    chosen, rejected = (case.schema.find(f"pair.policy_{side}_logps") for side in ("chosen", "rejected"))
    if chosen is None or rejected is None:
        raise NotExercised("it compares no log-probabilities in pairs")
    changed[chosen.key] = case.tensor(chosen) * NEARLY_CERTAIN
    of_rejected = case.schema.find("pair.reference_rejected_logps")
    if of_rejected is not None and of_rejected.key in case.tensors:
        changed[of_rejected.key] = case.tensor(rejected).clone()
    return case.with_tensors(changed)


def _goals_are_read(trial: Trial) -> bool:
    """Return whether labels and targets, where they are the goal, change anything: some are there for the interface alone."""
    goals = goals_beside(trial.case)
    if not goals:
        return True
    other = {slot.key: other_content(slot, trial.case.tensor(slot)) for slot in goals}
    return any(trial.moves(trial.finite_base, trial.evaluate(trial.case.with_tensors(other))))


def _cost_when_met(trial: Trial) -> bool:
    """Return whether predictions are compared with their targets as numbers, and meeting them costs more than not to."""
    base = trial.finite_base
    for slot, target in regressions(trial.case):
        nudged = trial.case.with_tensors({target.key: trial.case.tensor(target) * (1 + NUDGE)})
        met = trial.case.with_tensors({slot.key: trial.case.tensor(target).clone()})
        if not any(trial.moves(base, trial.evaluate(nudged))) or not bool(trial.evaluate(met).value > base.value):
            return False
    return True


def _classes_beside(trial: Trial) -> list[Slot]:
    return [slot for slot in goals_beside(trial.case) if slot.role == "labels"]


def _slopes(trial: Trial, case: Case, base: Evaluation) -> list[float]:
    """Return the slope of every term along the wanted direction, those that are 0 up to rounding left out."""
    found = []
    for slot, push in pushes(trial.facts, case, base):
        tolerance = trial.gradient_tolerance(slot.key, base.gradients[slot.key]).bound
        found += [float(x) for x in push[push.abs() > tolerance]]
    return found
