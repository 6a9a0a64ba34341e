"""Extremes: a number float32 can hold must not be lost on the way to it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch

from loss_conformance.cases.case import Case
from loss_conformance.cases.perturb import rounded, shifted
from loss_conformance.cases.slot import Slot
from loss_conformance.checks.choices import rounds_to_another_choice
from loss_conformance.checks.finite import first_nonfinite
from loss_conformance.checks.registry import check
from loss_conformance.checks.similarities import similarities
from loss_conformance.evaluation import Evaluation
from loss_conformance.report.numbers import number
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["extreme_inputs"]

# Steps of 4 cannot jump over the window in which exp overflows float32 (88) but not float64 (709).
LADDER: Final = (4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0)
EPS: Final = torch.finfo(torch.float32).eps
LARGEST_FLOAT32: Final = torch.finfo(torch.float32).max
LARGEST_ERROR: Final = 1e-3
"""Share of the value and its sensitivity that float32 may lose out there: ten thousand roundings."""
SCALABLE: Final = ("logits", "logprobs", "values", "rewards", "embeddings")


@check(
    group="finite",
    statement="Where float64 gives a value and gradient that float32 can hold, float32 gives it to 3 digits.",
    over=("typical", "full", "ties"),
    why="Long sequences, confident models and drifted policies reach these inputs in every real run.",
    cause="exp, sigmoid or a ratio formed outside log space: it overflows above 88 or underflows to log(0).",
    fix="Use logsigmoid, softplus, logsumexp or log1p; clamp the exponent, not the result.",
    seen_in="deepspeedai/DeepSpeedExamples#423",
    requires=("scalar_output", "finite_value"),
    own_batch=True,
)
def extreme_inputs(trial: Trial) -> None:
    if trial.bench.dtype is not torch.float64:
        raise NotExercised("the loss takes no float64 inputs")
    for slot in trial.case.slots():
        if slot.role not in SCALABLE or slot.limited or not trial.case.tensor(slot).is_floating_point():
            continue
        for scale, case in _ladder(trial.case, slot):
            exact = trial.evaluate(case, dtype=torch.float64)
            if not _held_by_float32(exact):
                break
            got = trial.evaluate(case, dtype=torch.float32)
            lost = first_nonfinite(got) if bool(torch.isfinite(got.value)) else f"loss = {number(got.value)}"
            lost = lost or ("" if trial.facts.contract.stochastic else _inaccurate(trial, case, got, exact))
            if lost:
                raise Broken(
                    lost,
                    f"finite: float64 gives a loss of {number(exact.value)}",
                    changed=f"{slot.key} × {scale:g}{similarities(trial, case)}",
                    guessed=_may_be_meant(trial),
                )


def _may_be_meant(trial: Trial) -> bool:
    """Return whether overflow may lie in the nature of the loss.

    The ratio of a policy gradient is unbounded, and many sound losses leave its exponent alone; of a foreign loss of no
    known family nobody can tell what it is of.
    """
    family = trial.facts.contract.family
    return family == "policy_gradient" or (trial.foreign and family is None)


def _inaccurate(trial: Trial, case: Case, got: Evaluation, exact: Evaluation) -> str:
    """Return a phrase when the finite value is far from the exact one: a clamp in a probability, a term that vanished."""
    bound = LARGEST_ERROR * (1.0 + float(exact.value.abs()) + exact.sensitivity)
    if float((got.value.to(torch.float64) - exact.value).abs()) <= bound:
        return ""
    # 0 times something huge, or huge terms that cancel: the exact value itself follows the last digit of the inputs.
    beside = (move(case, seed, EPS) for move in (shifted, rounded) for seed in range(3))
    near = (trial.evaluate(each, dtype=torch.float64).value for each in beside)
    if any(float((other - exact.value).abs()) > bound for other in near) or rounds_to_another_choice(trial, case):
        return ""
    return f"loss = {number(got.value)}"


def _ladder(case: Case, slot: Slot) -> Iterator[tuple[float, Case]]:
    for scale in LADDER:
        yield scale, case.with_tensors({slot.key: case.tensor(slot) * scale})


def _held_by_float32(exact: Evaluation) -> bool:
    numbers = [exact.value, *exact.gradients.values(), *exact.parameters.values()]
    return all(bool((t.abs() <= LARGEST_FLOAT32).all()) for t in numbers)
