"""Rotation: no axis of an embedding means anything by itself."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.checks.conditions import unless
from loss_conformance.checks.registry import Severity, check
from loss_conformance.evaluation import Evaluation, LossRaised, Malformed
from loss_conformance.report.numbers import number
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["rotation"]


@check(
    group="symmetry",
    statement="A loss that does not see the scale of single features does not see a rotation of all embeddings either.",
    over=("typical", "full"),
    severity=Severity.ADVICE,
    why="Cosines over the batch instead of over the features compare coordinates across samples: the loss falls, and "
    "depends on who else is in the batch.",
    cause="normalize or cosine_similarity along dim=0, or along the default dim=1 of embeddings with one axis more.",
    fix="F.normalize(x, dim=-1). A loss that standardises features over the batch on purpose subtracts their mean as well.",
    seen_in="KevinMusgrave/pytorch-metric-learning@dfa4932",
    applies=unless("stochastic"),
    own_batch=True,
)
def rotation(trial: Trial) -> None:
    trial.compare_in_float32()
    base = trial.finite_base
    keys = _embeddings(trial.case, base)
    size = trial.case.tensors[keys[0]].shape[-1]
    generator = torch.Generator().manual_seed(size)
    turn = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q
    ramp = torch.arange(1, size + 1, dtype=torch.float64)
    features: dict[str, Callable[[Tensor], Tensor]] = {
        "rotated": lambda x: x @ turn.to(x),
        "scaled": lambda x: x * (1 + ramp.to(x) / 4),
        "shifted": lambda x: x + ramp.to(x) / 8,
    }
    moved = {}
    for how, change in features.items():
        try:
            got = trial.evaluate(trial.case.with_tensors({key: change(trial.case.tensors[key]) for key in keys}))
        except (LossRaised, Malformed) as raised:
            raise NotExercised(f"it raises for embeddings that are {how}: {raised}") from None
        moved[how] = float(got.value - base.value)
        seen = abs(moved[how]) > 4 * max(trial.value_tolerance(base).bound, trial.value_tolerance(got).bound)
        if seen == (how == "scaled"):
            # It holds, or single features mean something to it, or it standardises them over the batch.
            return
    raise Broken(
        f"L moves by {number(moved['rotated'])} under a rotation, by 0 where features are scaled one by one",
        "no change under a rotation",
        changed=f"{', '.join(keys)} turned by one orthogonal matrix",
        tolerance=trial.value_tolerance(base),
    )


def _embeddings(case: Case, base: Evaluation) -> list[str]:
    """Return the keys of all embeddings, where nothing else knows their features."""
    slots = [slot for slot in case.slots() if slot.role == "embeddings"]
    sizes = {case.tensor(slot).shape[-1] for slot in slots}
    others: list[Tensor] = [case.tensor(s) for s in case.slots() if s not in slots and "D" in s.shape]
    if len(sizes) != 1 or min(sizes) < 2 or others:
        raise NotExercised("it reads no embeddings, or more than their features")
    if any(gradient.dim() > 0 and gradient.numel() > 1 for gradient in base.parameters.values()):
        raise NotExercised("it has parameters of its own, which know the axes")
    return [slot.key for slot in slots]
