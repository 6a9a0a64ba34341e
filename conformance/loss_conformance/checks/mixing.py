"""Mixtures: a share of exchanged labels mixes two losses, and a weight multiplies a term throughout."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from loss_conformance.checks.conditions import unless
from loss_conformance.checks.indifference import SMOOTHING
from loss_conformance.checks.registry import check
from loss_conformance.evaluation import LossRaised, Malformed
from loss_conformance.report.numbers import number
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["smoothing_mixes"]

SHARES: Final = (0.05, 0.1, 0.2, 0.3, 0.4)
ON_PAIRS: Final = ("preference", "reward")


@check(
    group="options",
    statement="Of pairs, smoothing mixes the loss of the label with that of the exchanged one, in proportion to its share.",
    over=("typical", "full"),
    why="A share taken inside the log-sigmoid is a smaller beta by another name: sure pairs are pushed without end.",
    cause="logsigmoid((1 - eps) * z - eps * z) for a mixture of two log-sigmoids.",
    fix="-(1 - eps) * logsigmoid(z) - eps * logsigmoid(-z); divided by 1 - 2 eps where it is to be unbiased.",
    seen_in="",
    applies=lambda trial: unless("stochastic", "stateful")(trial) or _unless_smoothed_pairs(trial),
    most_cases=2,
)
def smoothing_mixes(trial: Trial) -> None:
    rebuild, name = trial.bench.subject.rebuild, _smoothing_of(trial)[0]
    assert rebuild is not None
    try:
        answers = [trial.evaluate(trial.case, loss=rebuild({name: share})) for share in SHARES]
    except (LossRaised, Malformed, ValueError, TypeError, AssertionError) as error:
        raise NotExercised(f"it does not take every {name} below 1/2: {error}") from None
    values = torch.stack([answer.value.detach().double().cpu() for answer in answers])
    bound = 8 * max(trial.value_tolerance(answer).bound for answer in answers)
    if not bool(torch.isfinite(values).all()) or min(_misfit(values, form) for form in _forms()) <= bound:
        return
    raise Broken(
        ", ".join(f"{number(value)} at {share:g}" for value, share in zip(values, SHARES, strict=True)),
        "values in proportion to the share",
        changed=name,
        tolerance=trial.value_tolerance(answers[0]),
        guessed=trial.facts.origin.get("family") != "declared",
    )


def _unless_smoothed_pairs(trial: Trial) -> str | None:
    family = trial.facts.contract.family
    if family not in ON_PAIRS:
        return f"family = {family!r}"
    found = _smoothing_of(trial)
    return (
        None if trial.bench.subject.rebuild is not None and len(found) == 1 else "it has no setting that smooths labels"
    )


def _smoothing_of(trial: Trial) -> list[str]:
    return [name for name in trial.bench.subject.settings if SMOOTHING.fullmatch(name)]


def _forms() -> list[Tensor]:
    """Return what the values may be made of: a mixture, an unbiased one, and a divergence from the smoothed label."""
    share = torch.tensor(SHARES, dtype=torch.float64)
    mixed = torch.stack((torch.ones_like(share), share), dim=1)
    divergence = torch.stack((torch.ones_like(share), share.log(), (1 - share).log()), dim=1)
    return [mixed, mixed / (1 - 2 * share).unsqueeze(1), divergence]


def _misfit(values: Tensor, form: Tensor) -> float:
    closest = form @ torch.linalg.lstsq(form, values.unsqueeze(1)).solution
    return float((values - closest.squeeze(1)).abs().max())
