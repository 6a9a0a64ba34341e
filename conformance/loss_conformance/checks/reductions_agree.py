"""The reductions of one loss: "none", "sum" and "mean" tell the same story, and "none" one term of each."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from loss_conformance.cases.transform import group_size
from loss_conformance.checks.registry import check
from loss_conformance.report.numbers import number
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["one_term_each", "reductions_agree"]

OF_ROWS: Final = ("sample", "sequence", "pair")
"""Levels of which a batch has as many as it has rows, or groups of rows."""


@check(
    group="reduction",
    statement='reduction="sum" is the sum of what reduction="none" returns, and "mean" lies between its extremes.',
    over=("typical", "full"),
    why="Whoever reduces by hand, or switches the reduction, silently trains with another scale.",
    cause="a mode that divides by a length as well, or a branch that returns before the reduction.",
    fix="Compute the terms once, then reduce them: terms, terms.sum() or terms.mean().",
    seen_in="volcengine/verl@4d722b176",
    applies=lambda trial: None if "reduction" in trial.bench.subject.settings else "it has no setting named reduction",
)
def reductions_agree(trial: Trial) -> None:
    terms = _returned(trial, "none")
    summed, mean = _returned(trial, "sum"), _returned(trial, "mean")
    if terms.dim() == 0 or summed.dim() != 0:
        raise NotExercised("reduction does not mean here what it means in torch")
    # Some losses add up over classes or steps first: their terms are what "none" returns all the same.
    bound = 64 * terms.numel() * trial.bench.eps * (1 + float(terms.abs().sum()))
    if not bool((terms.sum() - summed).abs() <= bound):
        raise Broken(
            f'"sum" gives {number(summed)}',
            f"{number(terms.sum())}, the sum of the terms",
            tolerance=f"{bound:.1e}",
            # Ratios and logarithms of sums are sometimes reduced before they are formed, and said so.
            guessed=trial.foreign and not trial.facts.any_promised,
        )
    if mean.dim() == 0 and not float(terms.min()) - bound <= float(mean) <= float(terms.max()) + bound:
        extremes = f"between {number(terms.min())} and {number(terms.max())}"
        raise Broken(f'"mean" gives {number(mean)}', extremes, tolerance=f"{bound:.1e}", guessed=trial.foreign)


@check(
    group="reduction",
    statement="A loss that returns its terms returns one per sample, sequence or pair, as its contract says.",
    over=("typical", "full"),
    why="Whoever averages the terms then weighs pixels or tokens where whole samples were meant.",
    cause="a norm or a sum over one axis too few, or a mean over one too many.",
    fix="Reduce every axis but the first before the terms are returned.",
    seen_in="caogang/wgan-gp#27",
    applies=lambda trial: _of_rows(trial),
)
def one_term_each(trial: Trial) -> None:
    terms = trial.bench.caller.returned(trial.case, trial.loss)
    wanted = len(trial.case.rows) // group_size(trial.case)
    if isinstance(terms, Tensor) and terms.numel() != wanted:
        raise Broken(
            f"terms of shape {tuple(terms.shape)}", f"{wanted}, one per {trial.facts.contract.level} of the batch"
        )


def _of_rows(trial: Trial) -> str | None:
    contract = trial.facts.contract
    if contract.output != "terms" or not trial.facts.promised("level"):
        return "it promises no terms of a level"
    return None if contract.level in OF_ROWS else f"level = {contract.level!r} has as many terms as it likes"


def _returned(trial: Trial, reduction: str) -> Tensor:
    rebuild = trial.bench.subject.rebuild
    if rebuild is None:
        raise NotExercised("an instance cannot be constructed again with another reduction")
    try:
        value: Any = trial.bench.caller.returned(trial.case, rebuild({"reduction": reduction}))
    except Exception as error:
        raise NotExercised(f"reduction={reduction!r} is not offered: {error}") from None
    if not isinstance(value, Tensor) or not bool(torch.isfinite(value).all()):
        raise NotExercised(f"reduction={reduction!r} gives nothing finite here")
    return value.detach()
