"""Whether numbers that were taken for scores are probabilities: told by what a loss does to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from torch.overrides import TorchFunctionMode

from loss_conformance.cases.case import Case
from loss_conformance.cases.label_values import BINARY
from loss_conformance.cases.slot import Schema
from loss_conformance.subject.probe import PLAN, Fit, Probe, probe, spare

__all__ = ["takes_probabilities"]

_SQUASHES: Final = {
    *(
        "sigmoid",
        "logsigmoid",
        "log_sigmoid",
        "softmax",
        "log_softmax",
        "softplus",
        "tanh",
        "exp",
        "expm1",
        "erf",
        "atan",
    ),
    *("binary_cross_entropy_with_logits", "cross_entropy", "logsumexp", "logaddexp", "soft_margin_loss"),
}
_LARGE: Final = replace(PLAN, regime="saturated")


class _Calls(TorchFunctionMode):
    """Notes the names of the functions of torch that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(getattr(func, "__name__", "").rstrip("_"))
        return func(*args, **(kwargs or {}))


def takes_probabilities(call: Callable[[Any, Case], Any], loss: Any, schema: Schema) -> bool:
    """Return whether scores beside targets of 0 or 1 must be probabilities.

    It is so for a loss that squashes nothing itself and hands them to a cross-entropy of probabilities, gives no gradient
    to any number outside [0, 1], or is not finite on large ones.
    """
    if not any(slot.kind == BINARY for slot in schema.slots) or not any(_scores(slot) for slot in schema.slots):
        return False
    with _Calls() as calls:
        outcome = probe(call, spare(loss), schema)
    if calls.names & _SQUASHES or outcome.fit is not Fit.GOOD:
        return False
    return (
        "binary_cross_entropy" in calls.names
        or _clamped(schema, outcome)
        or _lost(probe(call, spare(loss), schema, _LARGE))
    )


def _scores(slot: Any) -> bool:
    return bool(slot.role == "values" and slot.trainable)


def _clamped(schema: Schema, outcome: Probe) -> bool:
    assert outcome.case is not None
    assert outcome.gradients is not None
    for slot in schema.slots:
        gradient = outcome.gradients.get(slot.key)
        if gradient is None or not _scores(slot):
            continue
        x = outcome.case.tensor(slot)
        inside = (x > 0) & (x < 1)
        if bool(inside.any() & ~inside.all() & (gradient[inside] != 0).all() & (gradient[~inside] == 0).all()):
            return True
    return False


def _lost(outcome: Probe) -> bool:
    """Return whether a loss that took its inputs gave nan or inf."""
    return outcome.fit is Fit.BROKEN and outcome.gradients is None
