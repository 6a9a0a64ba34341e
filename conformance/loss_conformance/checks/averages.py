"""Averages on request: with a setting that averages log-probabilities, each answer is divided by its own length."""

from __future__ import annotations

import re
from typing import Final

import torch

from loss_conformance.cases.transform import repeat_tokens_of
from loss_conformance.checks.conditions import unless, unless_rebuilt
from loss_conformance.checks.other_settings import evaluated_with
from loss_conformance.checks.registry import Severity, check
from loss_conformance.trial import NotExercised, Trial

__all__ = ["averages_forget_length"]

AVERAGES: Final = re.compile(
    r"(.*_)?((average|avg|mean)_log_?p(rob)?s?|(length|len)_?norm(alized?|alization)?|normalize_(by_)?(length|len))(_.*)?",
    re.IGNORECASE,
)
"""What a setting is called that asks for the mean over an answer's tokens instead of their sum."""


@check(
    group="reduction",
    statement="With log-probabilities averaged on request, repeating the tokens of some answers leaves L unchanged.",
    over=("full", "typical"),
    severity=Severity.ADVICE,
    why="Divided by the length of another answer, or twice, long answers win or lose for being long.",
    cause="both answers of a pair divided by the length of the chosen one, or what is averaged already divided once more.",
    fix="logps = (logps * mask).sum(-1) / mask.sum(-1).clamp(min=1), each row by its own mask.",
    seen_in="hiyouga/LLaMA-Factory#6722",
    applies=lambda trial: unless("stochastic", "stateful")(trial) or unless_rebuilt(trial) or _unless_asked(trial),
    most_cases=2,
)
def averages_forget_length(trial: Trial) -> None:
    trial.compare_in_float32()
    rows = torch.arange(len(trial.case.rows)) % 2 == 1
    longer = repeat_tokens_of(trial.case, rows)
    if longer is None or not bool(trial.case.trained[rows].any()):
        raise NotExercised("its inputs do not all lie on one grid of rows and tokens, or no answer can be made longer")
    for name in _asked(trial):
        summed, averaged, of_longer = (
            evaluated_with(trial, case, {name: value})
            for case, value in ((trial.case, False), (trial.case, True), (longer, True))
        )
        if summed is None or averaged is None or of_longer is None or not trial.moves(summed, averaged)[0]:
            raise NotExercised(f"{name} changes nothing here")
        trial.require_value(of_longer, averaged, f"{name} = True, every token of rows 1, 3, ... twice")


def _unless_asked(trial: Trial) -> str | None:
    if trial.facts.contract.family not in (None, "preference") or trial.case.schema.group != 2:
        return "it compares no pairs of answers"
    return None if _asked(trial) else "it has no setting that averages log-probabilities"


def _asked(trial: Trial) -> list[str]:
    settings = trial.bench.subject.settings
    return [name for name, value in settings.items() if isinstance(value, bool) and AVERAGES.fullmatch(name)]
