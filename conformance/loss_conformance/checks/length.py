"""Length normalisation: whether a long answer weighs more than a short one."""

from __future__ import annotations

from loss_conformance.cases.transform import repeat_tokens
from loss_conformance.checks.registry import check
from loss_conformance.trial import NotExercised, Trial

__all__ = ["length_normalization"]


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
