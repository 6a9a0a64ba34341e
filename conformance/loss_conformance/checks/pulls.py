"""Embeddings that belong together are pulled together, and a wrong order costs something."""

from __future__ import annotations

import torch
from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.checks.conditions import unless
from loss_conformance.checks.partners import Partners, partners_of, wrong_order
from loss_conformance.checks.registry import check
from loss_conformance.evaluation import Evaluation, LossRaised, Malformed
from loss_conformance.report.numbers import number
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["pulls_positives"]

EACH = 6
FEWEST = 3
"""Cases that all have to agree, so that no accident of a batch decides."""


@check(
    group="direction",
    statement="Moving partners (positives, views, rows of a label) together lowers L, and a triplet in the wrong order costs.",
    over=("typical", "full"),
    why="With signs exchanged the model drives apart what belongs together; with the margin subtracted it never learns an "
    "order it has not got.",
    cause="the signs of positives and negatives exchanged, the margin on the wrong side, or the diagonal taken for negatives.",
    fix="relu(d(anchor, positive) - d(anchor, negative) + margin); the partner is the class the softmax has to find.",
    seen_in="",
    applies=lambda trial: unless("stochastic", "surrogate_gradient")(trial) or _nobody(trial),
)
def pulls_positives(trial: Trial) -> None:
    base = trial.finite_base
    if any(gradient.numel() > 1 for gradient in base.parameters.values()):
        raise NotExercised("it has parameters of its own, which may turn the embeddings")
    partners = partners_of(trial.case)
    declared = trial.facts.origin.get("family") == "declared"
    _require_price(trial)
    if partners is None:
        return
    slopes = [_slope(partners, trial.case, base)]
    if slopes[0] < 0 and not _prefers_strangers(trial, partners, trial.case):
        return
    strangers = []
    for case, other in trial.bench.cases_of(("typical", "full"), EACH):
        if bool(torch.isfinite(other.value)):
            found = partners_of(case)
            assert found is not None
            slopes.append(_slope(found, case, other))
            strangers.append(_prefers_strangers(trial, found, case))
    told = [said for said in strangers if said is not None]
    if len(told) < FEWEST or not all(told) or (sum(slopes) <= 0 and not partners.overlapping):
        return
    raise Broken(
        f"a higher L where {partners.words} coincide, in each of {len(told)} cases",
        "a higher L where strangers do",
        changed=f"{partners.words}: a step together is {number(sum(slopes) / len(slopes))} of the gradient (cosine)",
        guessed=not (partners.sure or declared),
        declare="" if partners.sure or declared else "Contract(family='contrastive')",
    )


def _nobody(trial: Trial) -> str | None:
    family, origin = trial.facts.contract.family, trial.facts.origin.get("family")
    if origin == "declared" and family != "contrastive":
        return f"family = {family!r}"
    if partners_of(trial.case) is None and wrong_order(trial.case) is None:
        return "nothing says which embeddings belong together"
    return None


def _slope(partners: Partners, case: Case, base: Evaluation) -> float:
    """Return the cosine of the gradient and the direction in which partners meet: below 0 where they are pulled."""
    along, of_gradient, of_step = 0.0, 0.0, 0.0
    for key, step in partners.towards(case).items():
        gradient = base.gradients.get(key)
        if gradient is not None and bool(torch.isfinite(gradient).all()):
            along += float((gradient * step).sum())
            of_gradient += float(gradient.square().sum())
            of_step += float(step.square().sum())
    return along / (of_gradient * of_step) ** 0.5 if of_gradient * of_step > 0 else 0.0


def _prefers_strangers(trial: Trial, partners: Partners, case: Case) -> bool | None:
    """Return whether L is higher where partners coincide than where strangers do; ``None`` when it is the same."""
    if partners.meetings is None:
        return None
    try:
        near, far = (trial.evaluate(build(case)) for build in partners.meetings)
    except (LossRaised, Malformed):
        return None
    difference = float(near.value - far.value)
    bound = max(trial.value_tolerance(near).bound, trial.value_tolerance(far).bound)
    return difference > 0 if abs(difference) > 4 * bound else None


def _require_price(trial: Trial) -> None:
    """Demand a gradient that puts a triplet right whose positive is a little farther away than its negative."""
    found = wrong_order(trial.case)
    if found is None:
        return
    case, positive, negative = found
    got = trial.evaluate(case)
    pulls: list[Tensor] = [got.gradients[slot.key] for slot in (positive, negative)]
    if not all(bool(torch.isfinite(pull).all()) for pull in pulls) or any(bool((pull != 0).any()) for pull in pulls):
        return
    raise Broken(
        f"L = {number(got.value)}, with no gradient",
        "a gradient that puts them right",
        changed=f"every {positive.key} a little farther from its anchor than the {negative.key}",
        cause="the margin is on the wrong side: the hinge opens only beyond it.",
    )
