"""One forward and backward of a loss on one case."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import torch
from torch import Tensor, nn

from loss_conformance.cases.case import Case
from loss_conformance.cases.slot import STRUCTURAL_ROLES
from loss_conformance.subject.protocol import CallingProtocol
from loss_conformance.subject.result import result_of
from loss_conformance.subject.user_frames import user_traceback
from loss_reference.vocabulary import BATCH_FIELDS, MODEL_OUTPUT_FIELDS

__all__ = ["Evaluation", "LossRaised", "Malformed", "Stopwatch", "evaluate", "parameters_of"]


class LossRaised(Exception):
    """The loss, or its backward, raised on a legal input."""

    def __init__(self, error: Exception, where: str = "forward") -> None:
        super().__init__(f"{type(error).__name__}: {error}")
        self.error = error
        self.where = where
        self.traceback = user_traceback(error)

    @property
    def refusal(self) -> bool:
        """Whether the loss's own code declined the input, rather than an operation of torch failing on it."""
        if not isinstance(self.error, ValueError | AssertionError | NotImplementedError):
            return False
        frames = traceback.extract_tb(self.error.__traceback__)
        return not frames or f"{os.sep}torch{os.sep}" not in frames[-1].filename

    def wants(self, case: Case, declared: Collection[str] = ()) -> bool:
        """Whether it looked for a field that the vocabulary knows, or that is declared, and the case does not have."""
        if not isinstance(self.error, KeyError) or not self.error.args:
            return False
        name = self.error.args[0]
        known = name in BATCH_FIELDS or name in MODEL_OUTPUT_FIELDS or name in declared
        return known and name not in {slot.name for slot in case.slots()}


class Malformed(Exception):
    """The loss returned something that is not a loss."""

    def __init__(self, returned: str, wanted: str = "a 0-dim floating-point tensor attached to the graph") -> None:
        super().__init__(returned)
        self.returned, self.wanted = returned, wanted


@dataclass
class Stopwatch:
    """Seconds spent inside the loss itself, forward and backward, and how often it was called."""

    inside: float = 0.0
    calls: int = 0


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What one forward and backward gave.

    Attributes:
        value: the loss, a detached 0-dim tensor.
        gradients: by ``Slot.key``, for every input that was asked to receive gradient; zeros where none arrived.
        parameters: gradients of the loss's own parameters by name.
        unused: inputs that are not part of the graph at all.
        attached: whether the value depends on any trainable input through the graph.
        metrics: what else the loss returned.
        dtype: precision of the returned value.
        measured: by ``Slot.key``, the entries gradients were taken at and those gradients, whichever of them are kept.
    """

    value: Tensor
    gradients: Mapping[str, Tensor] = field(default_factory=dict)
    parameters: Mapping[str, Tensor] = field(default_factory=dict)
    unused: frozenset[str] = frozenset()
    attached: bool = True
    metrics: Mapping[str, Any] = field(default_factory=dict)
    dtype: torch.dtype = torch.float64
    measured: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @cached_property
    def sensitivity(self) -> float:
        """Return sum |x dL/dx|, how far relative rounding of the inputs moves the value."""
        return sum(_sensitivity(x, gradient) for x, gradient in self.measured.values())


NEVER_DIFFERENTIATED: Final = STRUCTURAL_ROLES


def parameters_of(loss: Any) -> dict[str, nn.Parameter]:
    """Return the loss's own trainable parameters by name."""
    if not isinstance(loss, nn.Module):
        return {}
    return {name: parameter for name, parameter in loss.named_parameters() if parameter.requires_grad}


def evaluate(
    protocol: CallingProtocol,
    loss: Any,
    case: Case,
    *,
    terms: bool = False,
    uneven: bool = False,
    constants_too: bool = False,
    only: frozenset[str] | None = None,
    upstream: float = 1.0,
    through: Callable[[Tensor], Tensor] | None = None,
    within: Callable[[], AbstractContextManager[Any]] = nullcontext,
    stopwatch: Stopwatch | None = None,
) -> Evaluation:
    """Call ``loss`` on ``case`` and differentiate what it returns.

    Args:
        terms: the contract says that the loss returns one value per term; their sum is the value.
        uneven: the value is a sum in which the terms have different weights, as they have for whoever reduces them.
        constants_too: give ``requires_grad`` to constant inputs as well.
        only: keys of the trainable inputs that get ``requires_grad``; ``None`` means all.
        upstream: the gradient that arrives from above.
        through: applied to every input on its way to the loss; gradients are of what it is applied to.
        within: makes the context the loss is called in, such as autocast; its backward runs outside, as in training.

    Raises:
        LossRaised: the loss or its backward raised.
        Malformed: it returned something that is no loss.
    """
    leaves: dict[str, Tensor] = {}
    tensors: dict[str, Tensor] = {}
    for slot in case.slots():
        tensor = case.tensor(slot).clone()
        wanted = slot.trainable and (only is None or slot.key in only)
        constant = constants_too and not slot.trainable and slot.role not in NEVER_DIFFERENTIATED
        if tensor.is_floating_point() and (wanted or constant):
            leaves[slot.key] = tensor.requires_grad_()
        # Never the leaf itself: in training these are results of a model, which an in-place write may change.
        fed = tensor.clone() if tensor.requires_grad else tensor
        tensors[slot.key] = fed if through is None else through(fed)
    parameters = parameters_of(loss) if through is None else {}
    started = time.perf_counter()
    try:
        with within():
            returned = protocol.call(loss, case.with_tensors(tensors))
    except Exception as error:
        raise LossRaised(error) from error
    value, metrics = result_of(returned)
    with torch.enable_grad():  # the loss may have left it off
        value = scalar(value, terms, uneven=uneven)
        # Backward runs on the plain tensors underneath: a custom Function would see some of both.
        value = value.as_subclass(Tensor) if through is not None else value
    if through is not None:
        with torch._C.DisableTorchFunctionSubclass():
            grads = _differentiate(value, list(leaves.values()), upstream)
    else:
        grads = _differentiate(value, [*leaves.values(), *parameters.values()], upstream)
    if stopwatch is not None:
        stopwatch.inside += time.perf_counter() - started
        stopwatch.calls += 1
    named = dict(zip([*leaves, *parameters], grads, strict=True))
    zeros = {**leaves, **parameters}
    filled = {name: torch.zeros_like(zeros[name]) if g is None else g.detach() for name, g in named.items()}
    return Evaluation(
        value=value.detach(),
        gradients={name: filled[name] for name in leaves},
        parameters={name: filled[name] for name in parameters},
        unused=frozenset(name for name, g in named.items() if g is None),
        attached=value.requires_grad,
        metrics=metrics,
        dtype=value.dtype,
        measured={name: (leaf.detach(), filled[name]) for name, leaf in leaves.items()},
    )


def scalar(value: Any, terms: bool, *, uneven: bool = False) -> Tensor:
    """Return ``value`` as the 0-dim tensor it must be, or a sum of its terms; raise ``Malformed`` otherwise."""
    if not isinstance(value, Tensor):
        shown = repr(value)
        kind = "" if value is None else f"{type(value).__name__} "
        raise Malformed(f"{kind}{shown if len(shown) < 60 else shown[:57] + '...'}")
    if not value.is_floating_point():
        raise Malformed(f"a tensor of {value.dtype}")
    if terms and uneven:
        weights = 1.0 + 0.25 * (torch.arange(value.numel(), device=value.device) % 5)
        return (value * weights.to(value.dtype).reshape(value.shape)).sum()
    if terms:
        return value.sum()
    if value.dim() != 0:
        raise Malformed(f"a tensor of shape {tuple(value.shape)}")
    return value


def _sensitivity(x: Tensor, gradient: Tensor) -> float:
    product = (x * gradient).abs()
    return float(product[torch.isfinite(product)].sum())


def _differentiate(value: Tensor, inputs: list[Tensor], upstream: float) -> list[Tensor | None]:
    if not value.requires_grad or not inputs:
        return [None] * len(inputs)
    # A product instead of grad_outputs: given those, torch imports its symbolic shapes, half a second of sympy.
    with torch.enable_grad():  # the loss may have left it off
        scaled = value if upstream == 1.0 else value * upstream
    try:
        return list(torch.autograd.grad(scaled, inputs, allow_unused=True))
    except RuntimeError as error:
        raise LossRaised(error, "backward") from error
