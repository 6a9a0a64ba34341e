"""Rest: a loss that imitates has nothing left to say where the model already equals what it imitates."""

from __future__ import annotations

import re
from typing import Any, Final

import torch

from loss_conformance.cases.case import Case
from loss_conformance.cases.slot import Slot
from loss_conformance.cases.token_grid import LOGPROBS, on_policy
from loss_conformance.checks.conditions import unless
from loss_conformance.checks.minimum import TEMPERATURE, fall, set_aside, variants
from loss_conformance.checks.registry import Severity, check
from loss_conformance.report.numbers import number
from loss_conformance.subject.parameter_names import meaning_of
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["rests_at_returns", "rests_at_teacher", "rests_on_policy"]

WITH_A_CRITIC: Final = ("value", "policy_gradient", "composite")
"""Families whose losses may train predicted values beside a policy."""

OUTSIDE_TOPK: Final = 60.0
"""How far below the teacher's lowest known score the student's others are put: e^-60 of its probability."""

ONE_SIDE: Final = re.compile("teacher|student|target|sharp", re.IGNORECASE)
"""Names of a temperature that is meant for one side: teachers are sharpened on purpose."""


@check(
    group="positivity",
    statement="Where the student equals the teacher the gradient of a distillation loss is 0: no step lowers L.",
    over=("typical", "full"),
    why="A divergence is smallest at equality; any other minimum teaches the student something the teacher does not say.",
    cause="a temperature on one side only, a softmax missing on one side or over another axis, log-probabilities taken for "
    "probabilities, or a hard-label term left in.",
    fix="Treat both sides alike: log_softmax(z / T) of student and teacher over the vocabulary, then the divergence.",
    seen_in="huggingface/trl@63a78d9e5",
    applies=lambda trial: _unless_family(trial, "distillation"),
    own_batch=True,
)
def rests_at_teacher(trial: Trial) -> None:
    trial.compare_in_float32()
    student, case = _at_teacher(_without_optional_labels(trial.case))
    _require_nothing_else(trial, case, (student,))
    labelled = any(slot.role in ("token_ids", "labels") and slot.kind != TOPK_INDICES for slot in case.slots())
    heat = [name for name in trial.bench.subject.settings if TEMPERATURE.fullmatch(name)]
    if any(ONE_SIDE.search(name) for name in heat):
        raise NotExercised(f"{' and '.join(heat)}: the two sides are meant to differ")
    weighed = labelled and bool(set(trial.bench.subject.settings) - set(heat))
    if weighed and fall(trial, case, student, None) is not None:
        raise NotExercised("a hard-label term pulls elsewhere, and a setting may say how much")
    _require_rest(trial, case, student, guessed=labelled, cause=HARD_LABELS if labelled else "")
    if len(heat) != 1 or labelled:
        return
    for name, value, loss in variants(trial, heat):
        # At rest with one temperature and not with another: nothing but a temperature on one side does that.
        _require_rest(trial, case, student, loss, guessed=trial.foreign, changed=f"{name} = {number(value)}", sure=True)


@check(
    group="positivity",
    statement="Where the predicted values equal the returns (and the old values) the gradient of a value loss is 0.",
    over=("typical", "full", "holes"),
    why="A critic that is right must be left alone; a loss that moves it compares each value with another token's return.",
    cause="values and returns sliced by one differently, flattened in another order, or a bias added to one of them.",
    fix="Slice values and returns alike: entry t of both speaks of token t.",
    seen_in="volcengine/verl@f147ede20",
    applies=lambda trial: _unless_family(trial, *WITH_A_CRITIC),
    own_batch=True,
)
def rests_at_returns(trial: Trial) -> None:
    trial.compare_in_float32()
    values = trial.case.schema.find("model_outputs.values")
    goals = [slot for slot in trial.case.slots() if slot.kind in ("batch.returns", "batch.values")]
    if values is None or not any(slot.kind == "batch.returns" for slot in goals):
        raise NotExercised("it reads no returns beside the values")
    goal = trial.case.tensor(next(slot for slot in goals if slot.kind == "batch.returns"))
    if any(trial.case.tensor(slot).shape != goal.shape for slot in (values, *goals)):
        raise NotExercised("values and returns have different shapes")
    of_the_critic_alone = trial.facts.contract.family in (None, "value")
    if of_the_critic_alone:
        _require_nothing_else(trial, trial.case, (values,))
    alike = {slot.key: goal.clone() for slot in (values, *goals)}
    case = trial.case.with_tensors(alike)
    _require_rest(trial, case, values, guessed=False, cause="" if of_the_critic_alone else LIVE_BASELINE)


LIVE_BASELINE: Final = (
    "an advantage made from the predicted values without detaching them: the actor's term trains the critic."
)
TOPK_INDICES: Final = "batch.teacher_topk_indices"
HARD_LABELS: Final = "a hard-label term, which no setting weighs, is left in; exempt the check if it is meant."
PULLED_ELSEWHERE: Final = ("advantages", "rewards", "pairs", "logprobs", "weights", "scalar")


def _without_optional_labels(case: Case) -> Case:
    """Return the case without the token ids a loss can do without: with them it may add a hard-label term."""
    for slot in case.slots():
        if slot.optional and slot.kind == "batch.input_ids":
            case = case.without(slot.key)
    return case


def _at_teacher(case: Case) -> tuple[Slot, Case]:
    """Return the student's slot and the case in which it equals the teacher."""
    filled = {slot.kind: slot for slot in case.slots()}
    student = filled.get("model_outputs.logits")
    if student is not None and student.trainable and "batch.teacher_logits" in filled:
        return student, _copied(case, student, filled["batch.teacher_logits"])
    if student is not None and {"batch.teacher_topk_logits", TOPK_INDICES} <= filled.keys():
        known, ids = (case.tensor(filled[kind]) for kind in ("batch.teacher_topk_logits", TOPK_INDICES))
        low = (known.amin(-1, keepdim=True) - OUTSIDE_TOPK).expand_as(case.tensor(student))
        return student, case.with_tensors({student.key: low.scatter(-1, ids, known)})
    by_name = {meaning_of(slot.name): slot for slot in case.slots() if slot.place == "argument"}
    for ours, theirs in (("student", "teacher"), ("student_probabilities", "teacher_probabilities")):
        if ours in by_name and theirs in by_name:
            return by_name[ours], _copied(case, by_name[ours], by_name[theirs])
    raise NotExercised("it reads no scores of a teacher beside those of a student")


def _copied(case: Case, to: Slot, source: Slot) -> Case:
    if case.tensor(to).shape != case.tensor(source).shape:
        raise NotExercised(f"{to.key} and {source.key} have different shapes")
    return case.with_tensors({to.key: case.tensor(source).clone()})


@check(
    group="direction",
    statement="On policy, with no advantage, a policy-gradient loss does not lower the log-probabilities of all that was sampled.",
    over=("typical", "full"),
    severity=Severity.ADVICE,
    why="A penalty that pulls where the policies are equal lowers every answer alike: whatever was sampled, away from it.",
    cause="the log-ratio itself added to L (k1): a KL in value, and in gradient the sum of all log-probabilities.",
    fix="exp(d) - d - 1 or d**2 / 2 with d = reference - policy; or the log-ratio, detached, taken off the advantage.",
    seen_in="PrimeIntellect-ai/prime-rl#1390",
    applies=lambda trial: _unless_family(trial, "policy_gradient"),
    own_batch=True,
)
def rests_on_policy(trial: Trial) -> None:
    trial.compare_in_float32()
    policy, advantages = trial.case.schema.find(LOGPROBS), trial.case.schema.find("batch.advantages")
    equal = on_policy(trial.case)
    if policy is None or advantages is None or equal is None or advantages.key not in equal.tensors:
        raise NotExercised("it reads no log-probabilities of the policy beside the advantages")
    idle = equal.with_tensors({advantages.key: torch.zeros_like(equal.tensor(advantages))})
    gradient = trial.evaluate(idle).gradients.get(policy.key)
    if gradient is None:
        raise NotExercised("its log-probabilities get no gradient at all")
    tolerance = trial.gradient_tolerance(policy.key, gradient)
    # Imitation of some answers raises them on purpose.
    if bool((gradient > tolerance.bound).any()) and not bool((gradient < -tolerance.bound).any()):
        raise Broken(
            f"gradient of {policy.key} up to {number(gradient.abs().amax())}",
            "none that lowers it",
            changed=f"every policy equal, {advantages.key} 0",
            tolerance=tolerance,
        )


def _unless_family(trial: Trial, *families: str) -> str | None:
    known = trial.facts.contract.family
    # A foreign loss of student and teacher is known by the names of its parameters.
    if known not in families and not (known is None and trial.foreign):
        return f"family = {known!r}"
    return unless("coupled")(trial)


def _require_nothing_else(trial: Trial, case: Case, model: tuple[Slot, ...]) -> None:
    """Leave out losses that pull the model towards something else as well."""
    base = trial.finite_base
    if base.parameters:
        raise NotExercised("it has parameters of its own")
    for slot in case.slots():
        if slot not in model and (slot.trainable or (slot.role in PULLED_ELSEWHERE and slot.kind != "rows_mask")):
            raise NotExercised(f"{slot.key} may pull the model elsewhere")


def _require_rest(
    trial: Trial,
    case: Case,
    model: Slot,
    loss: Any = None,
    *,
    guessed: bool,
    changed: str = "",
    cause: str = "",
    sure: bool = False,
) -> None:
    """Demand that no step down the gradient of ``model`` lowers L from ``case``."""
    fallen = fall(trial, case, model, loss)
    if fallen is None:
        return
    here, gradient, lower, step = fallen
    bound = trial.facts.contract.lower_bound
    below = bound is not None and float(lower) < bound - trial.value_tolerance(here).bound
    if below and trial.facts.promised("lower_bound"):
        guessed = False  # whatever the loss is meant to be, it promised not to go there
    elif not sure:
        guessed = guessed or trial.foreign or trial.facts.origin.get("family") != "declared"
        guessed = guessed or set_aside(trial, case, model)
    raise Broken(
        f"a gradient of up to {number(gradient.abs().amax())}; L falls from {number(here.value)} to {number(lower)} "
        f"when {model.key} moves by {step:g} along it",
        "a gradient of 0",
        changed=", ".join(text for text in (f"{model.key} equal to what it should become", changed) if text),
        tolerance=trial.gradient_tolerance(model.key, gradient),
        cause=cause,
        guessed=guessed,
        declare="Contract(exempt={...}) where another minimum is meant" if guessed else "",
    )
