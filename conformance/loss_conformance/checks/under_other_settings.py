"""What every call has to respect, with other settings than those in force: the batch, and the gradient of the value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import torch

from loss_conformance.checks.conditions import unless, unless_rebuilt
from loss_conformance.checks.finite_difference import require_slopes
from loss_conformance.checks.other_settings import evaluated, other_values, rebuilt_with_each
from loss_conformance.checks.registry import check
from loss_conformance.evaluation import LossRaised, Malformed
from loss_conformance.trial import Broken, NotExercised, Trial
from loss_reference.contract import Contract

__all__ = ["batch_kept_with_other_settings", "gradient_with_other_settings"]

MOST: Final = 16
"""Other values that are tried in all, so that a loss of many settings stays quick."""


@check(
    group="options",
    statement="With other settings, too, L leaves the batch as it was.",
    over=("typical",),
    why="The next loss on the same batch sees what a setting nobody tried has changed in it.",
    cause="an in-place operation (sub_, div_, masked_fill_, x[...] = ...) in a branch behind a setting.",
    fix="Use the out-of-place form in every branch.",
    applies=lambda trial: unless_rebuilt(trial) or (None if _has_settings(trial) else "it has no settings to vary"),
    requires=("scalar_output", "inputs_untouched"),
    most_cases=1,
)
def batch_kept_with_other_settings(trial: Trial) -> None:
    tried = False
    for name, value, loss in _others(trial):
        given = {slot.key: trial.case.tensor(slot).clone() for slot in trial.case.slots()}
        try:
            trial.bench.caller.call(trial.case.with_tensors(given), loss)
        except (LossRaised, Malformed):
            continue
        tried = True
        for key, tensor in given.items():
            before = trial.case.tensors[key]
            if tensor.shape != before.shape or not torch.equal(torch.nan_to_num(tensor), torch.nan_to_num(before)):
                raise Broken(f"{key} was changed in place", "its old content", changed=f"{name} = {value!r}")
    if not tried:
        raise NotExercised("it takes no other value of its settings")


@check(
    group="options",
    statement="With other settings, too, the gradient of L is no multiple of that of its value.",
    over=("typical", "full"),
    why="A scale that reaches the value and not the gradient, or the other way round, is a learning rate nobody set.",
    cause="a custom backward, or a factor applied after it, that leaves out a setting.",
    fix="Differentiate the very tensor that is returned, every factor included.",
    seen_in="ServiceNow/Fast-LLM#228",
    applies=lambda trial: (
        unless("surrogate_gradient", "stochastic", "stateful")(trial)
        or unless_rebuilt(trial)
        or (None if _has_settings(trial) else "it has no settings to vary")
    ),
    requires=("scalar_output", "finite_difference"),
    most_cases=1,
)
def gradient_with_other_settings(trial: Trial) -> None:
    tried = False
    for name, value, loss in _others(trial):
        contract = getattr(loss, "contract", None)
        if isinstance(contract, Contract) and contract.surrogate_gradient:
            continue
        got = evaluated(trial, trial.case, loss)
        if got is None or not any(trial.moves(trial.finite_base, got)):
            continue
        tried = True
        try:
            require_slopes(trial, {"loss": loss}, scale_alone=True)
        except NotExercised:
            continue
        except Broken as broken:
            # What is no common factor may be detached on purpose with this setting, which a contract cannot say of one.
            if broken.cause:
                raise Broken(
                    broken.got,
                    broken.wanted,
                    changed=f"{name} = {value!r}",
                    tolerance=broken.tolerance,
                    cause=f"{broken.cause.rstrip('.')}, with {name} = {value!r}.",
                    of_gradient=True,
                ) from None
    if not tried:
        raise NotExercised("no other value of its settings changes anything here")


def _has_settings(trial: Trial) -> bool:
    return bool(trial.bench.subject.settings)


def _others(trial: Trial) -> Iterator[tuple[str, Any, Any]]:
    """Yield (setting, value, loss) for other values of every setting, ``MOST`` in all."""
    made = 0
    for name in trial.bench.subject.settings:
        for other, loss in rebuilt_with_each(trial, name, other_values(trial, name)):
            made += 1
            if made > MOST:
                return
            yield name, other, loss
