"""How far apart two results of the same formula may be: from precision, number of terms and magnitude."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.evaluation import Evaluation

__all__ = ["LARGEST_RELATIVE", "Tolerance", "gradient_tolerance", "value_tolerance"]

OPERATIONS_PER_TERM: Final = 32
"""Rounded operations behind one term of a loss: a softmax, an exponential and a dozen products."""

LARGEST_RELATIVE: Final = 0.05
"""No derivation may allow more than this share of the magnitude; a law that needs more says nothing."""


@dataclass(frozen=True)
class Tolerance:
    """A bound on |got - wanted| and where it comes from."""

    bound: float
    ulps: float
    precision: str
    terms: int
    magnitude: float

    def __str__(self) -> str:
        return f"{self.bound:.1e} ({self.ulps:.0f} ulp {self.precision} of {self.magnitude:.3g}, {self.terms} terms)"


def value_tolerance(evaluation: Evaluation, case: Case, eps: float) -> Tolerance:
    """Bound the rounding of a value: (n + c) eps (1 + |L| + sum |x dL/dx|).

    n is the number of terms summed, c the operations behind one of them. The last sum is how far relative rounding of
    the inputs moves the value; the 1 stands for intermediates of unit size (probabilities, ratios) that may cancel.
    """
    return _tolerance(1.0 + _finite(evaluation.value.abs()) + evaluation.sensitivity, case, eps)


def gradient_tolerance(gradient: Tensor, case: Case, eps: float, usual: float = 0.0) -> Tolerance:
    """Bound the rounding of one entry of a gradient: (n + c) eps max(|g|, usual) (1 + max|x|).

    ``usual`` is how large this gradient gets on ordinary batches: where symmetry cancels it, the parts that cancelled
    were of that size. Rounding of an exponent moves a gradient, relatively, by the absolute rounding of the exponent.
    """
    largest = max(_finite(gradient.abs().amax()) if gradient.numel() else 0.0, usual)
    return _tolerance(largest * (1.0 + case.reach), case, eps)


def _tolerance(magnitude: float, case: Case, eps: float) -> Tolerance:
    terms = case.terms
    ulps = float(terms + OPERATIONS_PER_TERM)
    bound = min(ulps * eps, LARGEST_RELATIVE) * magnitude
    return Tolerance(bound, ulps, _name(eps), terms, magnitude)


def _finite(x: Tensor) -> float:
    number = float(x)
    return number if abs(number) < float("inf") else 0.0


def _name(eps: float) -> str:
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        if eps == torch.finfo(dtype).eps:
            return str(dtype).removeprefix("torch.")
    return f"eps {eps:.1e}"
