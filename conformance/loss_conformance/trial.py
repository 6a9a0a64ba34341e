"""One law on one case: what a check may ask, and how it says that the law is broken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.evaluation import Evaluation, LossRaised
from loss_conformance.report.numbers import number
from loss_conformance.tolerance import Tolerance, gradient_tolerance, value_tolerance

if TYPE_CHECKING:
    from loss_conformance.bench import Bench
    from loss_conformance.facts.facts import Facts

__all__ = ["Broken", "Crashed", "NotExercised", "Trial", "Unanswered"]


class Broken(Exception):
    """The law does not hold on this case.

    Args:
        got, wanted: what the loss gave and what the law demands.
        changed: what was changed between the two evaluations.
        tolerance: the bound that was exceeded.
        cause: the likeliest cause, when the check knows more than its general text.
        declare: what to add to the contract if the behaviour is meant.
        of_gradient: only gradients differ, which at a tie or kink they may.
        guessed: the contract fact the law rests on was guessed, and the evidence is not decisive: report as advice.
    """

    def __init__(
        self,
        got: object,
        wanted: object,
        *,
        changed: str = "",
        tolerance: object = "",
        cause: str = "",
        declare: str = "",
        guessed: bool = False,
        traceback: str = "",
        of_gradient: bool = False,
    ) -> None:
        super().__init__(f"got {got}, wanted {wanted}")
        self.of_gradient = of_gradient
        self.got, self.wanted = _shown(got), _shown(wanted)
        self.changed, self.tolerance, self.cause = changed, str(tolerance), cause
        self.declare, self.guessed, self.traceback = declare, guessed, traceback


class Unanswered(Broken):
    """The loss gave no answer in time; looking for a smaller case would take as long each time."""

    def __init__(self, limit: str) -> None:
        super().__init__(limit, "an answer", cause="an endless loop, a lock, or work that grows with the values.")


class Crashed(Broken):
    """The check itself failed, not the loss: a defect of this project, never a verdict about the loss."""

    def __init__(self, error: Exception) -> None:
        super().__init__(f"the check itself failed, please report it: {type(error).__name__}: {error}", "an answer")


class NotExercised(Exception):
    """This case cannot show the law, for the reason given; another one may."""


class Trial:
    """One law on one case of one loss.

    Attributes:
        bench: the loss on its test bench.
        case: the case; its numbers are float32 values in the working precision.
        eps: unit roundoff results are compared with.
    """

    def __init__(self, bench: Bench, case: Case) -> None:
        self.bench = bench
        self.case = case
        self.eps = bench.eps

    def compare_in_float32(self) -> None:
        """Compare with float32 tolerances from here on: for laws a guard such as ``/ (n + 1e-8)`` may bend by as much."""
        self.eps = max(self.eps, torch.finfo(torch.float32).eps)

    @property
    def facts(self) -> Facts:
        """What is known of the loss."""
        return self.bench.facts

    @property
    def loss(self) -> Any:
        """The loss object under test."""
        return self.bench.subject.loss

    @property
    def foreign(self) -> bool:
        """Whether the loss never promised this project's conventions."""
        return self.bench.subject.protocol.foreign

    @property
    def base(self) -> Evaluation:
        """The loss on the untouched case, evaluated once and shared by all laws."""
        return self.bench.base(self.case)

    @property
    def in_float32(self) -> Evaluation:
        """The loss on the untouched case in float32, evaluated once and shared by all laws."""
        return self.bench.in_float32(self.case)

    @property
    def finite_base(self) -> Evaluation:
        """The same, for laws that say nothing about a loss that is not finite there."""
        try:
            base = self.base
        except LossRaised as raised:
            raise NotExercised(f"the loss raises on this case ({raised}), which is the finite checks' to say") from None
        if not bool(torch.isfinite(base.value)):
            raise NotExercised("the loss is not finite on this case, which is the finite checks' to say")
        return base

    def evaluate(self, case: Case, **how: Any) -> Evaluation:
        """Evaluate the loss on another case."""
        return self.bench.caller.evaluate(case, **how)

    def value_tolerance(self, evaluation: Evaluation) -> Tolerance:
        """Return the bound on the rounding of a value in the precision the loss works in."""
        return value_tolerance(evaluation, self.case, self.eps)

    def gradient_tolerance(self, key: str, gradient: Tensor) -> Tolerance:
        """Return the bound on the rounding of one entry of the gradient of the input ``key``."""
        return gradient_tolerance(gradient, self.case, self.eps, self.bench.usual_gradients.get(key, 0.0))

    def require_value(self, got: Evaluation, wanted: Tensor | Evaluation, changed: str = "", **how: Any) -> None:
        """Demand equal values, up to rounding; raise ``Broken`` otherwise."""
        target = wanted.value if isinstance(wanted, Evaluation) else wanted
        tolerance = self.value_tolerance(got if not isinstance(wanted, Evaluation) else wanted)
        difference = (got.value.to(torch.float64) - target.to(torch.float64)).abs()
        if not bool(difference <= tolerance.bound):
            raise Broken(got.value, target, changed=changed, tolerance=tolerance, **how)

    def require_gradients(
        self, got: Mapping[str, Tensor], wanted: Mapping[str, Tensor], changed: str = "", **how: Any
    ) -> None:
        """Demand equal gradients of every input both name, entry by entry, up to rounding."""
        for key, target in wanted.items():
            if key not in got:
                continue
            tolerance = self.gradient_tolerance(key, target)
            difference = (got[key].to(torch.float64) - target.to(torch.float64)).abs()
            # That an entry is not finite is for the finite checks to say.
            alike = (got[key] == target) | (got[key].isnan() & target.isnan())
            difference = torch.where(alike, 0.0, difference)
            if bool((difference <= tolerance.bound).all()):
                continue
            worst = int(torch.where(torch.isnan(difference), torch.inf, difference).argmax())
            where = "".join(f"{i}," for i in _position(worst, difference.shape)).rstrip(",")
            name = f"gradient of {key}[{where}]"
            raise Broken(
                f"{name} = {number(got[key].flatten()[worst])}",
                number(target.flatten()[worst]),
                changed=changed,
                tolerance=tolerance,
                of_gradient=True,
                **how,
            )

    def require_same(self, got: Evaluation, wanted: Evaluation, changed: str = "", **how: Any) -> None:
        """Demand equal values and equal gradients."""
        self.require_value(got, wanted, changed, **how)
        self.require_gradients(got.gradients, wanted.gradients, changed, **how)
        self.require_gradients(got.parameters, wanted.parameters, changed, **how)

    def moves(self, one: Evaluation, other: Evaluation) -> tuple[bool, bool]:
        """Return whether value and gradients of two evaluations differ by more than rounding."""
        value = (one.value.to(torch.float64) - other.value.to(torch.float64)).abs()
        ours, theirs = {**one.gradients, **one.parameters}, {**other.gradients, **other.parameters}
        gradients = (
            (theirs[key] - gradient).abs() <= self.gradient_tolerance(key, gradient).bound
            for key, gradient in ours.items()
            if key in theirs
        )
        # Written so that NaN beside a number counts as a difference.
        return not bool(value <= self.value_tolerance(one).bound), any(not bool(same.all()) for same in gradients)


def _position(flat: int, shape: torch.Size) -> list[int]:
    position = []
    for size in reversed(shape):
        position.append(flat % size)
        flat //= size
    return position[::-1]


def _shown(value: object) -> str:
    return number(value) if isinstance(value, Tensor | float) else str(value)
