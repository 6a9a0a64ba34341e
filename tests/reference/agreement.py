"""A reference loss beside its oracle: the same value, and the gradient that finite differences of the oracle give."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest
import torch

from loss_reference import registry
from tests.reference.cases import Tensors, value_and_gradient
from tests.reference.test_against_oracles import Oracle, arrays, difference_gradient

__all__ = ["assert_agrees"]


def assert_agrees(
    name: str,
    oracle: Oracle,
    config: dict[str, Any],
    batch: Tensors,
    outputs: Tensors,
    *,
    gradient: bool = True,
    rel: float = 1e-10,
    fields: Collection[str] | None = None,
) -> None:
    """Compare value and, for every floating model output or those of ``fields``, gradient; everything is float64.

    Finite differences of the oracle are those of the *value*: leave out ``gradient`` where a loss stops gradients.
    """
    expected = oracle(arrays(batch), arrays(outputs), **config)
    for field in fields or [key for key, x in outputs.items() if x.is_floating_point()]:
        got, got_gradient = value_and_gradient(registry.create(name, config), batch, outputs, field)
        assert got.item() == pytest.approx(expected, rel=rel, abs=1e-13)
        if gradient:
            by_difference = difference_gradient(oracle, arrays(batch), arrays(outputs), field, config)
            torch.testing.assert_close(got_gradient, by_difference, rtol=1e-6, atol=1e-8)
