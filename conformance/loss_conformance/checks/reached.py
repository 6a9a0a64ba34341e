"""Reached: gradient arrives at every input that is there to be trained, and at every part of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import torch
from torch import Tensor

from loss_conformance.cases.slot import MODEL_OUTPUTS, Slot
from loss_conformance.cases.transform import other_content
from loss_conformance.checks.registry import Severity, check
from loss_conformance.evaluation import LossRaised, Malformed
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["every_part_receives_gradient", "every_trainable_receives_gradient"]

FEWEST_CASES: Final = 4
SHORTEST: Final = 3
"""Parts along an axis that tell one that is left out from one that is singled out."""
FAR: Final = 64.0

KNOWN_SIZES: Final = ("B", "S", "S-1", "V", "K", "D", "N")
"""Axes along which a loss takes some entries and leaves others on purpose: masks, shifts, classes, ranks."""

TRAINED_BY: Final = {
    **dict.fromkeys(
        ("supervised", "preference", "policy_gradient"), ("model_outputs.logits", "model_outputs.next_token_logprobs")
    ),
    "distillation": ("model_outputs.logits",),
    "value": ("model_outputs.values",),
    "reward": ("model_outputs.rewards",),
    "contrastive": ("model_outputs.embeddings",),
}
"""The model outputs a loss of each family is there to train."""


@check(
    group="gradient_flow",
    statement="Each input that is declared trainable receives a gradient that is not 0 on some ordinary batch.",
    over=("full",),
    why="A network whose output the loss takes and never reaches does not train, while the others train without it.",
    cause="a term overwritten by the next one, taken of another tensor than meant, or detached with it.",
    fix="Follow the input to the returned loss; where it is a constant on purpose, declare Field(trainable=False).",
    seen_in="eriklindernoren/PyTorch-GAN#52",
    requires=("scalar_output", "trainables_receive_gradient"),
)
def every_trainable_receives_gradient(trial: Trial) -> None:
    bases = trial.bench.ordinary_bases()
    reached = {key for base in bases for key, gradient in base.gradients.items() if bool((gradient != 0).any())}
    if not reached:
        raise NotExercised("no ordinary batch gives any gradient")
    for slot in trial.case.slots():
        if slot.key not in trial.finite_base.gradients or slot.key in reached:
            continue
        declared, by_family = _declared_trainable(trial, slot), _left_out_by_its_family(trial, slot, reached)
        # A critic or logits of the batch may be there to be looked at: as a baseline, for an entropy that is logged.
        if slot.place == MODEL_OUTPUTS and not (declared or by_family):
            continue
        if _reached_elsewhere(trial, slot) or _reached_when_set(trial, slot):
            continue
        sure = declared or (by_family and trial.facts.origin.get("family") == "declared")
        raise Broken(
            f"{slot.key} receives no gradient on any of {len(bases)} batches, {', '.join(sorted(reached))} does",
            f"a gradient of {slot.key}",
            guessed=not sure or (bool(_settings_off(trial)) and trial.bench.subject.rebuild is None),
            declare=f"Contract(fields={{{slot.name!r}: Field(..., trainable=False)}}) if it is a constant",
        )


def _reached_elsewhere(trial: Trial, slot: Slot) -> bool:
    """Return whether other content, or far larger one, is reached: a hinge rests where it is satisfied."""
    tensor = trial.case.tensor(slot)
    for other in (other_content(slot, tensor), -tensor, FAR * tensor, -FAR * tensor):
        if slot.role == "logprobs" and bool((other > 0).any()):
            continue
        try:
            got = trial.evaluate(trial.case.with_tensors({slot.key: other}))
        except (LossRaised, Malformed):
            continue
        if bool((got.gradients[slot.key] != 0).any()):
            return True
    return False


def _settings_off(trial: Trial) -> dict[str, Any]:
    """Return the settings that are 0 or False, each switched on: a coefficient of 0 takes its term out."""
    settings = trial.bench.subject.settings.items()
    return {
        name: isinstance(value, bool) or 1.0 for name, value in settings if isinstance(value, int | float) and not value
    }


def _reached_when_set(trial: Trial, slot: Slot) -> bool:
    rebuild = trial.bench.subject.rebuild
    for name, on in _settings_off(trial).items() if rebuild is not None else ():
        assert rebuild is not None
        try:
            got = trial.evaluate(trial.case, loss=rebuild({name: on}))
        except (LossRaised, Malformed, ValueError, TypeError, AssertionError):
            continue
        if bool((got.gradients[slot.key] != 0).any()):
            return True
    return False


def _declared_trainable(trial: Trial, slot: Slot) -> bool:
    field = trial.facts.contract.fields.get(slot.name)
    return field is not None and field.trainable is True and trial.facts.promised("fields")


def _left_out_by_its_family(trial: Trial, slot: Slot, reached: set[str]) -> bool:
    """Return whether the family trains this output, and no other one of those it trains is reached."""
    trained = TRAINED_BY.get(trial.facts.contract.family or "", ())
    return slot.kind in trained and not any(s.kind in trained and s.key in reached for s in trial.case.slots())


@check(
    group="gradient_flow",
    statement="Along an axis of views, heads or coordinates, no part is left without gradient on every batch.",
    over=("full",),
    severity=Severity.ADVICE,
    why="A loop that keeps its last term alone trains on one view of many, and its value looks like any other.",
    cause="total = term in a loop for total = total + term, or an index that is fixed where it should run.",
    fix="Add the terms up; leave parts out by a mask if they are to be left out.",
    seen_in="facebookresearch/VICRegL#6",
    requires=("scalar_output", "trainables_receive_gradient"),
    applies=lambda trial: None if list(_axes(trial)) else "no trainable input has an axis of its own",
)
def every_part_receives_gradient(trial: Trial) -> None:
    tried = False
    for slot, axis in _axes(trial):
        fixed = slot.shape[axis].isdigit()
        rows = [
            _alive(base.gradients[slot.key], axis)
            for case, base in trial.bench.ordinary_cases()
            if slot.key in base.gradients
            and case.tensor(slot).shape[axis] >= (2 if fixed else SHORTEST)
            and bool((base.gradients[slot.key] != 0).any())
        ]
        if len(rows) < FEWEST_CASES:
            continue
        tried = True
        shortest = min(len(row) for row in rows)
        # The size may differ from batch to batch: counted from the front, and counted from the end.
        for end, seen in (
            ("", torch.stack([r[:shortest] for r in rows])),
            ("-", torch.stack([r[-shortest:] for r in rows])),
        ):
            always, never = seen.all(0), ~seen.any(0)
            if bool((always | never).all()) and _singled_out(never, fixed):
                parts = [int(i) for i in never.nonzero().flatten()]
                named = ", ".join(str(i if not end else i - shortest) for i in parts)
                raise Broken(
                    f"{slot.key} never receives gradient at {named} of axis {slot.shape[axis]}, and always at the others",
                    f"gradient along all of axis {slot.shape[axis]}",
                )
    if not tried:
        raise NotExercised("too few batches with several parts")


def _axes(trial: Trial) -> Iterator[tuple[Slot, int]]:
    """Yield the trainable inputs with their axes of the user's own: other letters, and fixed sizes."""
    for slot in trial.case.slots():
        if slot.name not in trial.facts.contract.fields or not slot.trainable:
            continue
        for axis, letter in enumerate(slot.shape):
            if letter not in KNOWN_SIZES and letter != "1":
                yield slot, axis


def _alive(gradient: Tensor, axis: int) -> Tensor:
    """Return which parts along an axis receive any gradient."""
    return (gradient != 0).movedim(axis, 0).flatten(1).any(1)


def _singled_out(never: Tensor, fixed: bool) -> bool:
    """Return whether parts are left out that are not just a border: windows crop, a target one step later drops an end."""
    if not bool(never.any()) or bool(never.all()):
        return False
    if len(never) == 2:
        return fixed
    alive = (~never).nonzero().flatten()
    first, last = int(alive[0]), int(alive[-1])
    at_an_end = first == last and first in (0, len(never) - 1)
    return at_an_end or bool(never[first : last + 1].any())
