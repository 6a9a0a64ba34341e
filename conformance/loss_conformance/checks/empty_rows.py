"""Empty rows: an answer none of whose tokens is trained on."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.cases.transform import append_masked_rows
from loss_conformance.checks.conditions import unless
from loss_conformance.checks.registry import Severity, check
from loss_conformance.report.numbers import number
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["empty_answers", "worth_of_empty_answers"]

EMPTY_ROWS: Final = (1, 2)


@check(
    group="masking",
    statement="A row none of whose tokens is trained on counts as nothing, or as a row of the batch; not as a token.",
    over=("typical", "full"),
    why="Answers that are masked out whole make the step of all others smaller, by as much as they are many.",
    cause="mask.sum(-1).clamp(min=1).sum(): the floor against a division by 0 is taken row by row, then added up.",
    fix="mask.sum().clamp(min=1): sum first, then the floor.",
    seen_in="radixark/miles#2796",
    applies=lambda trial: unless("stochastic", "coupled")(trial) or _unless_tokens_are_masked(trial),
    requires=("scalar_output", "mask_value"),
)
def empty_answers(trial: Trial) -> None:
    trial.compare_in_float32()
    base, case = trial.finite_base, trial.case
    rows, tokens = len(case.rows), int(case.weight.sum())
    if case.schema.group > 1 or any(slot.role == "pairs" for slot in case.slots()) or bool((case.rows != 1).any()):
        raise NotExercised("its rows belong together, or some of them have another weight")
    if tokens == rows:
        raise NotExercised("there are as many tokens as rows")
    bound = trial.value_tolerance(base).bound
    shrinks = []
    for count in EMPTY_ROWS:
        got = trial.evaluate(_with_empty_rows(case, count))
        as_token, as_row = (base.value * n / (n + count) for n in (tokens, rows))
        if not bool((got.value - as_token).abs() <= bound) or any(
            bool((got.value - other).abs() <= 4 * bound) for other in (base.value, as_row)
        ):
            return
        shrinks.append(got)
    raise Broken(
        shrinks[0].value,
        base.value,
        changed=f"one row appended with nothing to train on, beside {tokens} trained tokens",
        cause="L is divided by one token more: the floor against a division by 0 is taken row by row.",
        guessed=trial.foreign,
    )


@check(
    group="masking",
    statement="How good an answer was of which nothing is trained on does not move L alone, without any gradient.",
    over=("typical", "full"),
    severity=Severity.ADVICE,
    why="The value that is logged follows answers that were dropped, and no two runs can be compared by it.",
    cause="the ratio of an empty answer is exp(0) = 1, so its advantage is added as it is.",
    fix="where(mask.any(-1), -advantage * ratio, 0) before rows are summed.",
    seen_in="huggingface/trl#6095",
    applies=lambda trial: unless("stochastic", "coupled")(trial) or _unless_tokens_are_masked(trial),
    requires=("scalar_output", "mask_value"),
    most_cases=2,
)
def worth_of_empty_answers(trial: Trial) -> None:
    case = _with_empty_rows(trial.case, 1)
    worth = [slot for slot in case.slots() if slot.role == "advantages" and slot.shape == ("B",)]
    if not worth or case.schema.group > 1:
        raise NotExercised("no answer has one advantage as a whole")
    base = trial.evaluate(case)
    for slot in worth:
        better = case.tensor(slot).clone()
        better[-1] += 1.0
        got = trial.evaluate(case.with_tensors({slot.key: better}))
        if trial.moves(base, got) == (True, False):
            raise Broken(
                f"L goes from {number(base.value)} to {number(got.value)}, and no gradient changes",
                "no change",
                changed=f"{slot.key} of a row without trained tokens raised by 1",
            )


def _unless_tokens_are_masked(trial: Trial) -> str | None:
    says = any(
        slot.token_axis is not None and slot.row_axis == 0 and (slot.role == "mask" or slot.ignore is not None)
        for slot in trial.case.slots()
    )
    return None if says else "it reads no mask of tokens"


def _with_empty_rows(case: Case, count: int) -> Case:
    """Return the case with rows appended of which no token is trained on."""
    for _ in range(count):
        size = len(case.rows)
        case = append_masked_rows(case)
        changed: dict[str, Tensor] = {}
        for slot in case.slots():
            if slot.role == "mask" and slot.row_axis == 0:
                mask = case.tensor(slot).clone()
                mask[size:] = 0 if slot.token_axis is not None else 1
                changed[slot.key] = mask
        case = replace(
            case.with_tensors(changed),
            trained=torch.cat((case.trained[:size], torch.zeros_like(case.trained[size:]))),
            rows=torch.ones_like(case.rows),
        )
    return case
