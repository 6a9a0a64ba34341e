"""Strides: the numbers count, not how they lie in memory."""

from __future__ import annotations

from torch import Tensor

from loss_conformance.checks.conditions import unless
from loss_conformance.checks.registry import check
from loss_conformance.evaluation import LossRaised
from loss_conformance.trial import Broken, Trial

__all__ = ["strides"]


@check(
    group="interface",
    statement="Inputs that are not contiguous in memory give the same L and gradient.",
    over=("typical", "full"),
    why="Slices and transposes of a model's output are not contiguous; a view of them crashes in the middle of a run.",
    cause="x.view(...) where the memory cannot be seen that way.",
    fix="Use x.reshape(...), or x.flatten().",
    applies=unless("stochastic"),  # random numbers like a tensor lie in memory as it does
    seen_in="allenai/open-instruct#1139",
    own_batch=True,
)
def strides(trial: Trial) -> None:
    base = trial.finite_base
    scattered = {key: _scattered(tensor) for key, tensor in trial.case.tensors.items() if tensor.dim() >= 2}
    try:
        got = trial.evaluate(trial.case.with_tensors(scattered), through=_scattered)
    except LossRaised as raised:
        raise Broken(f"it raised {raised}", "a loss", traceback=raised.traceback, guessed=trial.foreign) from None
    trial.require_value(got, base, "every input transposed in memory", guessed=trial.foreign)
    trial.require_gradients(got.gradients, base.gradients, "every input transposed in memory", guessed=trial.foreign)


def _scattered(tensor: Tensor) -> Tensor:
    """Return the same numbers with the first two axes exchanged in memory."""
    return tensor.transpose(0, 1).contiguous().transpose(0, 1) if tensor.dim() >= 2 else tensor
