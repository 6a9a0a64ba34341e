"""Indifference: where the model holds all answers for equally good, what depends on the answers says nothing."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Final

import torch

from loss_conformance.cases.case import Case
from loss_conformance.cases.transform import scramble
from loss_conformance.checks.conditions import unless
from loss_conformance.checks.other_settings import evaluated, evaluated_with, rebuilt
from loss_conformance.checks.registry import check
from loss_conformance.evaluation import Evaluation
from loss_conformance.report.numbers import number
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["smoothing_keeps_the_total"]

SMOOTHING: Final = re.compile(
    r"(label_)?smooth(ing)?(_value|_factor|_rate)?|(label_)?eps(ilon)?_smooth(ing)?", re.IGNORECASE
)
AMOUNTS: Final = (0.1, 0.3)
SMALLEST: Final = 1e-3
"""A default below it is a constant that keeps a quotient finite."""
SIDE: Final = re.compile(
    r"(.*_)?(chosen|rejected|win(ner)?|los(er|e)|preferred|dispreferred|better|worse)(_.*)?", re.IGNORECASE
)
"""Inputs of answers that are compared, whatever their shape is."""
OF_ANSWERS: Final = ("logits", "logprobs", "values", "rewards")


@check(
    group="options",
    statement="Where the model holds all answers for equally good, smoothing the labels leaves L as it is.",
    over=("typical", "full"),
    why="Targets that add up to more or less than 1 scale the loss with the smoothing, and move the best prediction.",
    cause="1 - eps / K for 1 - eps, or a divisor of 1 - eps where the estimate needs 1 - 2 eps.",
    fix="target = (1 - eps) * one_hot + eps / K; robust: ((1 - eps) * l - eps * l_flipped) / (1 - 2 * eps).",
    seen_in="ildoonet/pytorch-randaugment#30",
    applies=lambda trial: unless("stochastic", "stateful")(trial) or _unless_smoothed(trial),
    most_cases=2,
)
def smoothing_keeps_the_total(trial: Trial) -> None:
    name = _smoothing(trial)
    off, *on = (rebuilt(trial, {name: amount}) for amount in (0.0, *AMOUNTS))
    found: list[tuple[Evaluation, Evaluation, float]] = []
    for case in _indifferent(trial.case):
        plain = evaluated(trial, case, off)
        if plain is None or not (_blind_to_labels(trial, case, plain, off) and _at_no_margin(trial, case, plain, name)):
            continue
        smoothed = [evaluated(trial, case, loss) for loss in on]
        changed = [(s, amount) for s, amount in zip(smoothed, AMOUNTS, strict=True) if s is not None]
        different = [(s, amount) for s, amount in changed if _apart(trial, s, plain)]
        if not different:
            return
        found.append((different[0][0], plain, different[0][1]))
    if not found:
        raise NotExercised("no inputs leave it indifferent between its labels")
    got, plain, amount = found[0]
    if abs(float(got.value - (1 + amount) * plain.value)) <= 4 * trial.value_tolerance(plain).bound:
        raise NotExercised(f"{name} weighs a penalty beside the labels, which keep all of their weight")
    raise Broken(
        number(got.value),
        f"{number(plain.value)}, as without smoothing",
        changed=f"{name} = {amount:g}, where every answer is as likely as any other",
        tolerance=trial.value_tolerance(plain),
        guessed=not trial.facts.any_promised,
    )


def _unless_smoothed(trial: Trial) -> str | None:
    subject = trial.bench.subject
    if trial.facts.contract.family not in (None, "supervised", "preference", "reward"):
        return f"family = {trial.facts.contract.family!r}"
    if any(slot.role == "weights" for slot in trial.case.slots()):
        return "it weighs its answers differently"
    return None if subject.rebuild is not None and _names(trial) else "it has no setting that smooths labels"


def _names(trial: Trial) -> list[str]:
    settings = trial.bench.subject.settings
    return [
        name
        for name, value in settings.items()
        if SMOOTHING.fullmatch(name) and isinstance(value, int | float) and (value == 0 or SMALLEST <= value < 0.5)
    ]


def _smoothing(trial: Trial) -> str:
    names = _names(trial)
    if len(names) != 1:
        raise NotExercised(f"{' and '.join(names)} smooth together")
    return names[0]


def _indifferent(case: Case) -> Iterator[Case]:
    """Yield cases in which no answer is better than another, whether log-probabilities are added up or averaged."""
    scores = [slot for slot in case.slots() if slot.role in OF_ANSWERS and not slot.integer and not slot.limited]
    classes = {case.tensor(s).shape[-1] for s in scores if s.role == "logits" and s.shape[-1:] == ("V",)}
    levels = [-math.log(size) for size in classes] or [0.0, -1.0]
    for level in levels:
        filled = {
            slot.key: torch.full_like(case.tensor(slot), level if slot.role == "logprobs" else 0.0) for slot in scores
        }
        yield case.with_tensors(filled)


def _blind_to_labels(trial: Trial, case: Case, plain: Evaluation, loss: object) -> bool:
    """Return whether other labels cost the same there: classes weigh alike."""
    for slot in case.slots():
        if slot.role in ("labels", "token_ids") or slot.kind == "binary_targets":
            other = evaluated(trial, scramble(case, slot, None, case.active(slot)), loss)
            if other is None or _apart(trial, other, plain):
                return False
    return True


def _at_no_margin(trial: Trial, case: Case, plain: Evaluation, name: str) -> bool:
    """Return whether answers that are alike cost the same whatever the other settings are.

    A margin would tell them apart, and so would their lengths, where log-probabilities are added up.
    """
    settings = trial.bench.subject.settings
    compared = case.schema.group > 1 or any(SIDE.fullmatch(slot.name) for slot in case.slots())
    if not compared:
        return True
    others = {other: 2 * value for other, value in settings.items() if isinstance(value, float) and other != name}
    for other, value in others.items():
        got = evaluated_with(trial, case, {name: 0.0, other: value})
        if got is not None and _apart(trial, got, plain):
            return False
    return True


def _apart(trial: Trial, one: Evaluation, other: Evaluation) -> bool:
    return abs(float(one.value - other.value)) > 4 * trial.value_tolerance(other).bound
