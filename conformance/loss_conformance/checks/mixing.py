"""Mixtures: a share of exchanged labels mixes two losses, and a weight multiplies a term throughout."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from loss_conformance.cases.slot import Slot
from loss_conformance.checks.conditions import unless
from loss_conformance.checks.indifference import SMOOTHING
from loss_conformance.checks.registry import Severity, check
from loss_conformance.evaluation import LossRaised, Malformed
from loss_conformance.report.numbers import number
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["no_weight_no_gradient", "smoothing_mixes"]

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


@check(
    group="reduction",
    statement="An entry of weight 0 gets no gradient.",
    over=("typical", "full"),
    severity=Severity.ADVICE,
    why="A weight on one of two terms takes an entry half out: what is left pulls it where no data is.",
    cause="score + weight * error for weight * (score + error).",
    fix="Form the whole term of an entry, then multiply it with the weight, once.",
    seen_in="lightgbm-org/LightGBM#4174",
    applies=lambda trial: (
        unless("coupled", "stochastic", "stateful")(trial)
        or (None if _weights_of(trial) else "it takes no weights of the entries of its one prediction")
    ),
    requires=("scalar_output",),
)
def no_weight_no_gradient(trial: Trial) -> None:
    if trial.bench.coupling.across:
        raise NotExercised("an entry of weight 0 still stands beside the others, which are compared with it")
    found = _weights_of(trial)
    assert found is not None
    trained, weights = found
    tensor = trial.case.tensor(weights).clone(memory_format=torch.contiguous_format)
    tensor.view(-1)[-1] = 0.0
    got = trial.evaluate(trial.case.with_tensors({weights.key: tensor}))
    gradient = got.gradients.get(trained.key)
    if gradient is None or not bool((trial.finite_base.gradients[trained.key][-1] != 0).any()):
        raise NotExercised("its last entry is not trained")
    last = gradient.reshape(tensor.numel(), -1)[-1]
    if bool((last.abs() > trial.gradient_tolerance(trained.key, gradient).bound).any()):
        raise Broken(
            f"gradient of {trained.key} = {number(last[last.abs().argmax()])} at the last entry",
            "0",
            changed=f"the last entry of {weights.key} is 0",
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


def _weights_of(trial: Trial) -> tuple[Slot, Slot] | None:
    """Return the one prediction, and the weights that stand beside each of its entries or rows."""
    trained = [slot for slot in trial.case.slots() if slot.trainable]
    weights = [slot for slot in trial.case.slots() if slot.role == "weights" and not slot.trainable]
    if len(trained) != 1 or len(weights) != 1 or not weights[0].shape:
        return None
    beside = trained[0].shape[: len(weights[0].shape)] == weights[0].shape and weights[0].shape[0] == "B"
    return (trained[0], weights[0]) if beside else None
