"""The policy gradient at the policy itself: -A for every token, whatever the ratio, the clip and the penalty do elsewhere."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.cases.slot import Slot
from loss_conformance.cases.token_grid import LOGPROBS, OTHER_POLICIES, of_tokens, on_policy, policy_slopes
from loss_conformance.checks.conditions import declared_only
from loss_conformance.checks.context import whitens_advantages
from loss_conformance.checks.registry import check
from loss_conformance.report.numbers import number
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["on_policy_gradient"]

HIGH: Final = 1.0 / 32
LOW: Final = -7.0 / 32
"""The two advantages tokens exchange: of both signs and of unequal size, so that |A| and A^2 are told from A."""

NUDGE: Final = 2.0**-20


@check(
    group="direction",
    statement="On policy, raising the advantage of a token lowers the gradient of its log-probability, or that of its whole row.",
    over=("typical", "full", "holes", "on_policy"),
    why="There every surrogate has the gradient -A / N; an advantage of another token, row or sign trains the wrong ones.",
    cause="advantages sliced unlike the log-probabilities, flattened in another order, squared, or taken by absolute value.",
    fix="Slice advantages as the mask, advantages[:, 1:] beside next_token_logprobs, and multiply each term by its own.",
    seen_in="volcengine/verl@fbec86d7f",
    applies=lambda trial: _reads_advantages(trial),
    own_batch=True,
)
def on_policy_gradient(trial: Trial) -> None:
    trial.compare_in_float32()
    case = on_policy(trial.case)
    slot = trial.case.schema.find("batch.advantages")
    if case is None or slot is None or slot.key not in case.tensors:
        raise NotExercised("it reads no log-probabilities of the policy beside the advantages")
    high = _which_are_high(case, slot)
    one, other = (
        case.with_tensors({slot.key: torch.where(chosen, HIGH, LOW).to(case.tensor(slot))}) for chosen in (high, ~high)
    )
    before, after = _slopes(trial, one), _slopes(trial, other)
    raised = _advantages(other, slot) - _advantages(one, slot)
    tolerance = trial.gradient_tolerance("", torch.stack((before, after)))
    response = after - before
    moved = response.abs() > tolerance.bound
    wrong = moved & (torch.sign(response) == torch.sign(raised)) & _by_token(case, slot, response, moved)
    if not bool(moved.any()):
        _require_felt(trial, one, slot, before)
    if bool(wrong.any()) and not any(_at_a_kink(trial, each) for each in (case, one, other)):
        row, token = (int(i) for i in wrong.nonzero()[0])
        declared = trial.facts.origin.get("family") == "declared"
        raise Broken(
            f"its gradient moves the same way, by {number(response[row, token])} "
            f"(so do {int(wrong.sum())} of the {int(moved.sum())} tokens that answer)",
            "the other way",
            changed=f"the advantage of token {token} of row {row}: "
            f"{number(_advantages(one, slot)[row, token])} → {number(_advantages(other, slot)[row, token])}, "
            "all others between the same two values",
            tolerance=tolerance,
            # A subclass inherits the family and may weigh its terms in a way of its own.
            guessed=trial.foreign or trial.facts.origin.get("family", "").startswith("inherited"),
            declare="" if declared else f"Contract(family=...) if {trial.facts.contract.family!r} is not what it is",
        )
    _require_unit(trial, case, raised, response, tolerance.bound)


def _require_felt(trial: Trial, case: Case, slot: Slot, slopes: Tensor) -> None:
    """Demand that a gradient turns with the advantages, which a row may see the mean of alone.

    Raises:
        Broken: it is the same where all of them have the opposite sign.
    """
    opposite = _slopes(trial, case.with_tensors({slot.key: -case.tensor(slot)}))
    bound = trial.gradient_tolerance("", slopes).bound
    if not bool((slopes != 0).any()) or bool(((opposite - slopes).abs() > bound).any()) or _at_a_kink(trial, case):
        raise NotExercised("exchanging high and low advantages does not change the gradient here")
    raise Broken(
        "the same gradient whatever the advantages are",
        "a gradient in proportion to them",
        changed=f"advantages of {HIGH:g} and {LOW:g} exchanged, and the sign of all of them",
        cause="the term is not multiplied by its advantage, which is read for its sign, or for a mask, alone.",
        **declared_only(trial, "family", doubtful=trial.foreign),
    )


def _require_unit(trial: Trial, case: Case, raised: Tensor, response: Tensor, bound: float) -> None:
    """Advise where a token-level mean has the gradient -c A / N with another c than 1."""
    facts, m = trial.facts, case.weight
    promised = facts.promised("level") and facts.promised("normalizer") and facts.contract.level == "token"
    if not promised or LOGPROBS not in {slot.kind for slot in case.slots()}:
        return
    if facts.contract.normalizer == "global" and any(slot.kind == "count" for slot in case.slots()):
        return  # what that is a number of is not known
    anchor = -raised * m / _tokens(trial, case)
    first = tuple((m != 0).nonzero()[0])
    factor = response[first] / anchor[first]
    if bool(((response - factor * anchor).abs() <= bound).all()) and bool(((response - anchor).abs() > bound).any()):
        if whitens_advantages(trial, case):
            return
        raise Broken(
            f"-{number(factor)} A / N at every token",
            "-A / N",
            tolerance=f"{bound:.1e}",
            cause="a constant factor: a coefficient, or a divisor that is counted in another way.",
            guessed=True,
        )


def _tokens(trial: Trial, case: Case) -> float:
    """Return what the contract says a mean over tokens divides by."""
    count = case.schema.find("batch.global_valid_toks")
    given = trial.facts.contract.normalizer == "global" and count is not None and count.key in case.tensors
    return max(float(case.tensor(count)) if given and count is not None else float(case.weight.sum()), 1.0)


def _reads_advantages(trial: Trial) -> str | None:
    family = trial.facts.contract.family
    if family != "policy_gradient":
        return f"family = {family!r}"
    return None if trial.case.schema.find("batch.advantages") is not None else "it reads no advantages"


def _which_are_high(case: Case, slot: Slot) -> Tensor:
    """Return which entries get the high advantage: an irregular pattern, with both kinds among every row's trained tokens."""
    tensor = case.tensor(slot)
    generator = torch.Generator().manual_seed(case.plan.seed if case.plan is not None else 0)
    high = torch.rand(tensor.shape, generator=generator) < 0.5
    if slot.token_axis is None:
        high[:2] = torch.tensor([True, False])[: len(high)]
        return high
    for row, trained in enumerate(case.active(slot)):
        places = trained.nonzero().flatten()
        if len(places) > 1 and len(set(high[row, places].tolist())) == 1:
            high[row, places[0]] = ~high[row, places[0]]
    return high


def _advantages(case: Case, slot: Slot) -> Tensor:
    return of_tokens(case, slot, case.tensor(slot))


def _slopes(trial: Trial, case: Case) -> Tensor:
    """Return the slope of L at every trained token [B, S], 0 elsewhere."""
    got = trial.evaluate(case)
    slopes = policy_slopes(case, dict(got.gradients))
    if slopes is None or not bool(torch.isfinite(slopes).all()):
        raise NotExercised("the log-probabilities receive no finite gradient, which other checks say")
    return torch.where(case.trained & (case.rows != 0)[:, None], slopes, 0.0)


def _by_token(case: Case, slot: Slot, response: Tensor, moved: Tensor) -> Tensor:
    """Return, [B, 1], in which rows tokens answer on their own: not all alike, as where the advantage is of the row."""
    if slot.token_axis is None:
        return torch.ones_like(moved[:, :1])
    rises, falls = (moved & (response > 0)).any(1), (moved & (response < 0)).any(1)
    return (rises & falls)[:, None]


def _at_a_kink(trial: Trial, case: Case) -> bool:
    """Return whether the gradient jumps beside the policy: a penalty \\|lp - lp_ref\\|, or a clip of width 0.

    Advantages may choose the tokens that are penalised, so it is asked with each of those that are compared.
    """
    changed: dict[str, Any] = {}
    for slot in case.slots():
        if slot.kind in OTHER_POLICIES:
            changed[slot.key] = case.tensor(slot) - NUDGE
    here, beside = _slopes(trial, case), _slopes(trial, case.with_tensors(changed))
    return bool((here - beside).abs().amax() > 2.0**-10 * here.abs().amax())
