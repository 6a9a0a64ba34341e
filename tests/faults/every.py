"""Every planted fault, by id."""

from __future__ import annotations

from typing import Final

from tests.faults import (
    axes,
    bounds,
    direction,
    finite,
    gradient,
    interface,
    masking,
    metrics,
    options,
    reduction,
    stability,
)
from tests.faults.fault import by_id

MODULES: Final = (interface, finite, gradient, masking, axes, reduction, bounds, direction, options, metrics, stability)
FAULTS: Final = by_id(fault for module in MODULES for fault in module.FAULTS)
