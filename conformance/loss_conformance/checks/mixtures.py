"""Mixtures: what is divided by a mixture of two distributions is weighed as they are mixed."""

from __future__ import annotations

from math import log
from typing import Final

import torch

from loss_conformance.cases.case import Case
from loss_conformance.cases.slot import Slot
from loss_conformance.checks.conditions import unless, unless_rebuilt
from loss_conformance.checks.other_settings import evaluated_with
from loss_conformance.checks.registry import check
from loss_conformance.report.numbers import number
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["mixture_weighs_as_it_mixes"]

SHARES: Final = (0.1, 0.75)
SURE: Final = 600.0
"""A score beside which all others have a probability of 0, at any usual temperature."""
CLOSE: Final = 1e-4


@check(
    group="options",
    statement="A Jensen-Shannon divergence of two distributions that share nothing is the entropy of its weights.",
    over=("typical", "full"),
    why="At the default of 1/2 nothing shows it; at any other weight the divergence exceeds its bound and pulls the wrong way.",
    cause="m = (1 - beta) * p + beta * q under beta * KL(p, m) + (1 - beta) * KL(q, m).",
    fix="m = beta * p + (1 - beta) * q goes with beta * KL(p, m) + (1 - beta) * KL(q, m).",
    seen_in="huggingface/trl#3043",
    applies=lambda trial: unless("stochastic", "stateful")(trial) or _unless_shared(trial),
    most_cases=1,
)
def mixture_weighs_as_it_mixes(trial: Trial) -> None:
    apart, mixed = _sharing_nothing(trial), False
    for name in _shares(trial):
        at_half = evaluated_with(trial, apart, {name: 0.5})
        if at_half is None or not float(at_half.value) > 0:
            continue
        for beta in SHARES:
            got = evaluated_with(trial, apart, {name: beta})
            if got is None:
                continue
            # In units of the value at 1/2, log 2, whatever the terms are divided by.
            entropies = float(got.value / at_half.value) * log(2)
            mixed = mixed or abs(entropies - _crossed(beta, beta)) <= CLOSE
            if abs(entropies - _crossed(beta, 1 - beta)) <= CLOSE:
                raise Broken(
                    f"{number(entropies / log(2))} times the value at 1/2",
                    f"{number(_crossed(beta, beta) / log(2))} times",
                    changed=f"{name} = {beta:g}, every position sure, of another token on either side",
                )
    if not mixed:
        raise NotExercised("it divides by no mixture whose weights are a setting")


def _crossed(weight: float, share: float) -> float:
    """Return -sum w log m: of two distributions that share nothing, weighed by w and mixed by m."""
    return -weight * log(share) - (1 - weight) * log(1 - share)


def _unless_shared(trial: Trial) -> str | None:
    return unless_rebuilt(trial) or (None if _shares(trial) else "it has no setting between 0 and 1")


def _shares(trial: Trial) -> list[str]:
    settings = trial.bench.subject.settings
    return [name for name, value in settings.items() if isinstance(value, float) and 0 <= value <= 1]


def _sharing_nothing(trial: Trial) -> Case:
    scores = [slot for slot in trial.case.slots() if slot.role == "logits" and slot.shape.count("V") == 1]
    trained, constant = ([slot for slot in scores if slot.trainable is wanted] for wanted in (True, False))
    if len(trained) != 1 or len(constant) != 1 or trained[0].shape != constant[0].shape:
        raise NotExercised("it compares no scores of a model with those of another")
    if trial.case.tensor(trained[0]).shape[trained[0].shape.index("V")] < 2:
        raise NotExercised("of one token nothing can be apart")
    return trial.case.with_tensors(
        {slot.key: _sure(trial, slot, token) for token, slot in enumerate((trained[0], constant[0]))}
    )


def _sure(trial: Trial, slot: Slot, token: int) -> torch.Tensor:
    scores = torch.zeros_like(trial.case.tensor(slot))
    scores.select(slot.shape.index("V"), token).fill_(SURE)
    return scores
