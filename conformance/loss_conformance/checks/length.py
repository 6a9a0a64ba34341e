"""Length normalisation: whether a long answer weighs more than a short one."""

from __future__ import annotations

import torch

from loss_conformance.cases.transform import repeat_tokens, repeat_tokens_of
from loss_conformance.checks.conditions import declared_only
from loss_conformance.checks.registry import check
from loss_conformance.trial import NotExercised, Trial

__all__ = ["length_normalization", "own_length"]


@check(
    group="reduction",
    statement="Repeating every token leaves a loss that declares length_normalized=True unchanged.",
    over=("full", "typical", "holes"),
    why="A length counted wrongly (the end token left out, the division done twice) favours short or long answers.",
    cause="dividing by another count than that of the summed tokens, or dividing twice.",
    fix="Divide the masked sum by the masked count, both over the same tokens, once.",
    seen_in="hiyouga/LLaMA-Factory@a8fae3869",
    applies=lambda trial: (
        None
        if trial.facts.contract.length_normalized and trial.facts.promised("length_normalized")
        else "length_normalized is not declared"
    ),
    own_batch=True,
)
def length_normalization(trial: Trial) -> None:
    trial.compare_in_float32()
    if not any(slot.token_axis is not None for slot in trial.case.slots()):
        raise NotExercised("it has no token axis")
    trial.require_value(trial.evaluate(repeat_tokens(trial.case)), trial.finite_base, "every token twice")


@check(
    group="reduction",
    statement="Repeating the tokens of some answers leaves a length_normalized loss of sequences or pairs unchanged.",
    over=("full", "typical", "holes"),
    why="Divided by the length of another answer, the longer of the two weighs more, which the division was to prevent.",
    cause="both answers of a pair divided by the length of the chosen one, or all by the longest, or by their mean.",
    fix="Divide each answer's masked sum by its own masked count.",
    requires=("scalar_output", "length_normalization"),
    applies=lambda trial: (
        None
        if trial.facts.contract.length_normalized
        and trial.facts.promised("length_normalized")
        and trial.facts.contract.level in ("sequence", "pair")
        else "it does not declare length_normalized=True of sequences or pairs"
    ),
    own_batch=True,
)
def own_length(trial: Trial) -> None:
    trial.compare_in_float32()
    rows = torch.arange(len(trial.case.rows)) % 2 == 1
    longer = repeat_tokens_of(trial.case, rows)
    if longer is None or not any(slot.token_axis is not None for slot in trial.case.slots()):
        raise NotExercised("its inputs do not all lie on one grid of rows and tokens")
    if not bool(trial.case.trained[rows].any()):
        raise NotExercised("no answer to make longer")
    how = declared_only(trial, "length_normalized", doubtful=not trial.facts.promised("level"))
    trial.require_value(trial.evaluate(longer), trial.finite_base, "every token of rows 1, 3, ... twice", **how)
